package broker

import (
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

// Subjects (design section 1). A topic's segments become tokens; "." in a segment
// becomes "=", which no segment may hold, so the map is injective and yields no
// wildcard, blank or "$".
const (
	logPrefix     = "log."
	livePrefix    = "live."
	requeuePrefix = "requeue."
)

var (
	toSubject   = strings.NewReplacer(".", "=", "/", ".")
	fromSubject = strings.NewReplacer("=", ".", ".", "/")
	wildcards   = strings.NewReplacer(".", "=", "/", ".", "**", ">")
)

// topicSubject is the subject of a topic under one of the prefixes.
func topicSubject(prefix, namespace string, t schemas.Topic) string {
	return prefix + toSubject.Replace(namespace) + "." + toSubject.Replace(string(t))
}

// filterSubject is the subject filter of a topic filter. It may match subjects that
// the filter does not: those of notices, under a wildcard first segment.
func filterSubject(prefix, namespace string, f schemas.TopicFilter) string {
	return prefix + toSubject.Replace(namespace) + "." + wildcards.Replace(string(f))
}

// subjectTopic undoes topicSubject.
func subjectTopic(prefix, namespace, subject string) schemas.Topic {
	return schemas.Topic(fromSubject.Replace(subject[len(prefix)+len(namespace)+1:]))
}

// streamName is the name of a namespace's JetStream stream.
func streamName(namespace string) string { return "LOG_" + toSubject.Replace(namespace) }
