package broker

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/schemas"
)

// names is how many names go through the map: a million with OUTRELAY_SOAK, else a tenth.
func names() int {
	if os.Getenv("OUTRELAY_SOAK") != "" {
		return 1_000_000
	}
	return 100_000
}

// Characters that mean something to NATS, and those that a careless map would mix up.
const nameCharacters = "AaBbZz019._~-..=>*$ \t/%"

// generate is a text that is often a name within its grammar, and often nearly one.
func generate(r *rand.Rand, filter bool) string {
	var b strings.Builder
	for i := range 1 + r.IntN(5) {
		if i > 0 {
			b.WriteByte('/')
		}
		switch {
		case filter && r.IntN(4) == 0:
			b.WriteString([]string{"*", "**"}[r.IntN(2)])
			continue
		case r.IntN(50) == 0:
			b.WriteString([]string{".", "..", "$JS", ">", "log", "live", "_INBOX"}[r.IntN(7)])
			continue
		}
		alphabet := len(nameCharacters)
		if r.IntN(20) > 0 {
			alphabet = strings.IndexByte(nameCharacters, '=')
		}
		for range 1 + r.IntN(4) {
			b.WriteByte(nameCharacters[r.IntN(alphabet)])
		}
	}
	return b.String()
}

// A subject belongs to one topic of one namespace, is no wildcard, and can't be read
// as another root, whatever a client calls its topics (protocol section 1).
func TestSubjectsAreInjective(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	namespaces := []string{"default", "shop", "shop.eu", "shop-eu"}
	owner := map[string][2]string{}
	topics, filters := 0, 0
	for n := range names() {
		namespace := namespaces[r.IntN(len(namespaces))]
		text := generate(r, n%2 == 1)
		if topic, err := schemas.ParseTopic(text); err == nil {
			topics++
			for _, prefix := range []string{logPrefix, livePrefix, requeuePrefix} {
				subject := topicSubject(prefix, namespace, topic)
				root := prefix + toSubject.Replace(namespace) + "."
				rest, ours := strings.CutPrefix(subject, root)
				if !ours || rest == "" || strings.ContainsAny(rest, "*>$ \t\r\n") || strings.Contains("."+rest+".", "..") {
					t.Fatalf("topicSubject(%q, %q, %q) = %q", prefix, namespace, topic, subject)
				}
				if strings.Count(rest, ".") != strings.Count(text, "/") {
					t.Fatalf("%q has other tokens than %q has segments", subject, text)
				}
				if back := subjectTopic(prefix, namespace, subject); back != topic {
					t.Fatalf("subjectTopic(%q) = %q, want %q", subject, back, topic)
				}
				who := [2]string{namespace, text}
				if before, known := owner[subject]; known && before != who {
					t.Fatalf("%v and %v share the subject %q", before, who, subject)
				}
				owner[subject] = who
			}
		}
		if filter, err := schemas.ParseTopicFilter(text); err == nil {
			filters++
			subject := filterSubject(logPrefix, namespace, filter)
			rest, ours := strings.CutPrefix(subject, logPrefix+toSubject.Replace(namespace)+".")
			if !ours || rest == "" || strings.ContainsAny(rest, "$ \t\r\n") {
				t.Fatalf("filterSubject(%q, %q) = %q", namespace, filter, subject)
			}
			for i, token := range strings.Split(rest, ".") {
				segment := strings.Split(text, "/")[i]
				if wild := strings.ContainsAny(token, "*>"); wild != (segment == "*" || segment == "**") || wild && len(token) != 1 {
					t.Fatalf("the segment %q of %q became the token %q", segment, text, token)
				}
			}
		}
	}
	if topics < names()/10 || filters < names()/10 {
		t.Errorf("%d topics and %d filters of %d texts are within the grammar; this test generates the wrong ones", topics, filters, names())
	}
	for _, a := range namespaces {
		for _, b := range namespaces {
			if a != b && (streamName(a) == streamName(b) || strings.HasPrefix(topicSubject(logPrefix, a, "x"), logPrefix+toSubject.Replace(b)+".")) {
				t.Errorf("the namespaces %s and %s share subjects", a, b)
			}
		}
	}
}
