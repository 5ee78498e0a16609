package access

import (
	"strings"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// An Inspection is what a token says of itself. None of it has been verified.
type Inspection struct {
	// Kind is "jwt" or "sas".
	Kind    string    `json:"kind"`
	Expires time.Time `json:"expires"`

	// Of a shared access signature: the name of its key, and its resource, decoded once.
	Key      string `json:"key,omitempty"`
	Resource string `json:"resource,omitempty"`

	// Of a JSON Web Token.
	Algorithm string    `json:"algorithm,omitempty"`
	KeyID     string    `json:"keyid,omitempty"`
	Issuer    string    `json:"issuer,omitempty"`
	Subject   string    `json:"subject,omitempty"`
	Audience  []string  `json:"audience,omitempty"`
	NotBefore time.Time `json:"notbefore,omitzero"`
	Rights    *Rights   `json:"rights,omitempty"`
}

// Inspect reads a token without verifying it. The error is a [schemas.Problem] of
// name "unauthorized" for one that [Policy.Authorize] would not take, whoever signed it.
func Inspect(token string) (Inspection, error) {
	token = strings.TrimSpace(token)
	if len(token) > MaxToken {
		return Inspection{}, schemas.Problemf("unauthorized", "The token has %d bytes; at most %d are looked at.", len(token), MaxToken)
	}
	if fields, ok := signatureText(token); ok {
		s, wrong := parseSignature(fields)
		if wrong != "" {
			return Inspection{}, schemas.Problemf("unauthorized", "%s", wrong)
		}
		return Inspection{Kind: "sas", Expires: s.expires.UTC(), Key: s.key, Resource: s.address}, nil
	}
	t, wrong := parseWebToken(token)
	if wrong != "" {
		return Inspection{}, schemas.Problemf("unauthorized", "%s", wrong)
	}
	i := Inspection{
		Kind: "jwt", Expires: t.expires.UTC(), Algorithm: t.alg, Issuer: t.issuer, Subject: t.subject,
		Audience: t.audience, NotBefore: t.notBefore.UTC(), Rights: &t.claim,
	}
	if t.notBefore.IsZero() {
		i.NotBefore = time.Time{}
	}
	if t.kid != nil {
		i.KeyID = *t.kid
	}
	return i, nil
}
