package relay

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// An offer is what a sender's gateway asks of a listener's. It is not kept; both are
// of one version or understand the first byte.
type offer struct {
	kind    byte
	pointer bool   // the request itself is at the rendezvous
	gateway string // the sender's
	token   string // of the meeting
	path    string // of the address, from the name on, escaped
	query   string // the sender's own
	id      string
	members []byte // the message's members behind address and id, each after a comma
	hasBody bool
	body    []byte
}

const offerVersion = 1

// The bits of an offer's flags.
const (
	offerPointer = 1 << iota
	offerHasBody
)

func (o *offer) append(b []byte) []byte {
	flags := byte(0)
	if o.pointer {
		flags |= offerPointer
	}
	if o.hasBody {
		flags |= offerHasBody
	}
	b = append(b, offerVersion, o.kind, flags)
	for _, s := range []string{o.gateway, o.token, o.path, o.query, o.id} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	b = append(binary.AppendUvarint(b, uint64(len(o.members))), o.members...)
	return append(b, o.body...)
}

var errOffer = errors.New("relay: an offer of another version")

// parseOffer reads an offer. It shares b's memory.
func parseOffer(b []byte) (o offer, err error) {
	if len(b) < 3 || b[0] != offerVersion {
		return o, errOffer
	}
	o.kind, o.pointer, o.hasBody = b[1], b[2]&offerPointer != 0, b[2]&offerHasBody != 0
	b = b[3:]
	field := func() []byte {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			err = errOffer
			return nil
		}
		f := b[size : size+int(n)]
		b = b[size+int(n):]
		return f
	}
	for _, s := range []*string{&o.gateway, &o.token, &o.path, &o.query, &o.id} {
		*s = string(field())
		if err != nil {
			return o, err
		}
	}
	o.members = field()
	o.body = b
	return o, err
}

// address is where the listener is to dial. The host is the one it has reached us by.
func (o *offer) address(scheme, host, id string) string {
	action := actionAccept
	if o.kind == kindRequest {
		action = actionRequest
	}
	var b strings.Builder
	b.WriteString(scheme + "://" + host + "/$hc" + o.path + "?")
	if o.query != "" {
		b.WriteString(o.query + "&")
	}
	b.WriteString(paramAction + "=" + action + "&" + paramID + "=" + id + "&" + paramRendezvous + "=" + o.token)
	return b.String()
}

// message is the offer in the words of the control channel.
func (o *offer) message(scheme, host, id string) []byte {
	name := "accept"
	if o.kind == kindRequest {
		name = "request"
	}
	b := make([]byte, 0, 512+len(o.members))
	b = append(b, `{"`+name+`":{"address":`...)
	b = appendString(b, o.address(scheme, host, id))
	if !o.pointer {
		b = append(b, `,"id":`...)
		b = appendString(b, id)
		b = append(b, o.members...)
	}
	return append(b, "}}"...)
}

// appendString appends a JSON string. Bytes that are no UTF-8 are taken for Latin-1,
// as HTTP once had it.
func appendString(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		runes := make([]rune, len(s))
		for i := range len(s) {
			runes[i] = rune(s[i])
		}
		s = string(runes)
	}
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return append(append(append(b, '"'), s...), '"')
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can always be written
	}
	return append(b, quoted...)
}

// spellings are the names of headers that are not spelled as net/http does.
var spellings = map[string]string{
	"Sec-Websocket-Key":        "Sec-WebSocket-Key",
	"Sec-Websocket-Version":    "Sec-WebSocket-Version",
	"Sec-Websocket-Protocol":   "Sec-WebSocket-Protocol",
	"Sec-Websocket-Extensions": "Sec-WebSocket-Extensions",
	"Www-Authenticate":         "WWW-Authenticate",
	"Soapaction":               "SOAPAction",
	"Dnt":                      "DNT",
	"Etag":                     "ETag",
	"Te":                       "TE",
}

// appendHeaders appends the object of a request's headers, all of them strings. keep
// says which values of a header stay.
func appendHeaders(b []byte, host string, header http.Header, keep func(name string, values []string) []string) []byte {
	names := make([]string, 0, len(header))
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	b = append(b, `{"Host":`...)
	b = appendString(b, host)
	for _, name := range names {
		values := keep(name, header[name])
		if len(values) == 0 {
			continue
		}
		separator := ", "
		if name == "Cookie" {
			separator = "; "
		}
		if spelled, ok := spellings[name]; ok {
			name = spelled
		}
		b = append(b, ',')
		b = appendString(b, name)
		b = append(b, ':')
		b = appendString(b, strings.Join(values, separator))
	}
	return append(b, '}')
}
