package access

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// ClientCertificates are those of TLS clients that stand for rights. The zero value
// takes none.
type ClientCertificates struct {
	// Authorities are those whose certificates are taken; nil for none.
	Authorities *x509.CertPool
	// Rights say what their holders may do.
	Rights []CertificateRights
}

// CertificateRights are those of the certificates with a URI among their subject
// alternative names (RFC 5280 section 4.2.1.6), such as spiffe://example.com/shop.
type CertificateRights struct {
	// URI is compared to the letter.
	URI string
	Rights
}

// mostVerified bounds the certificates that a namespace remembers to be good.
const mostVerified = 1000

// holders are a namespace's checked [ClientCertificates].
type holders struct {
	authorities *x509.CertPool
	rights      []CertificateRights
	parsed      []rights

	mu       sync.Mutex
	verified map[[sha256.Size]byte]bool // guarded by mu
}

func newHolders(c ClientCertificates, path string, f *faults) *holders {
	h := &holders{authorities: c.Authorities, rights: c.Rights, verified: map[[sha256.Size]byte]bool{}}
	for i, r := range c.Rights {
		at := fmt.Sprintf("%s.rights[%d]", path, i)
		if r.URI == "" {
			f.add(at+".uri", "There is no URI; write the one that the certificate has among its subject alternative names.")
		}
		if slices.ContainsFunc(c.Rights[:i], func(o CertificateRights) bool { return o.URI == r.URI }) {
			f.add(at+".uri", "The URI %q is there twice; write its rights in one place.", r.URI)
		}
		parsed, wrong := r.Rights.parse()
		if wrong != "" {
			f.add(at, "%s", wrong)
		}
		h.parsed = append(h.parsed, parsed)
	}
	return h
}

// certificates are those that the request's client showed; nil without any, and where
// the namespace takes none.
func (n *namespace) certificates(r *http.Request) []*x509.Certificate {
	if n.holders == nil || n.holders.authorities == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates
}

// checkCertificate checks a client's certificate and those that it sent with it.
func (n *namespace) checkCertificate(chain []*x509.Certificate) (*Grant, *schemas.Problem) {
	p := &certificateProof{chain: chain}
	rights, problem := p.rights(n)
	if problem != nil {
		return nil, problem
	}
	return &Grant{
		Subject: printable("certificate " + p.uri), Expires: chain[0].NotAfter, Source: Certificate,
		namespace: n.name, rights: rights, proof: p,
	}, nil
}

// A certificateProof is what stays of a client's certificate: no secret is in it.
type certificateProof struct {
	chain []*x509.Certificate
	uri   string // the one that it has rights by
}

func (p *certificateProof) rights(n *namespace) (rights, *schemas.Problem) {
	leaf := p.chain[0]
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return rights{}, schemas.Problemf("unauthorized", "The client certificate has expired, or is not valid yet.")
	}
	h := n.holders
	if h == nil || h.authorities == nil || !h.verify(p.chain) {
		return rights{}, schemas.Problemf("unauthorized", "The client certificate is of no authority that is taken here.")
	}
	for i, r := range h.rights {
		for _, uri := range leaf.URIs {
			if uri.String() == r.URI {
				p.uri = r.URI
				return h.parsed[i], nil
			}
		}
	}
	return rights{}, schemas.Problemf("unauthorized", "The client certificate has no URI that stands for rights here.")
}

func (p *certificateProof) same(other proof) bool {
	o, ok := other.(*certificateProof)
	return ok && o.uri == p.uri
}

// verify says whether the chain leads to an authority. What is good is remembered, as
// the answer to one that has not expired does not change until the rules do.
func (h *holders) verify(chain []*x509.Certificate) bool {
	digest := sha256.Sum256(chain[0].Raw)
	h.mu.Lock()
	known := h.verified[digest]
	h.mu.Unlock()
	if known {
		return true
	}
	others := x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: h.authorities, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.verified) >= mostVerified {
		clear(h.verified)
	}
	h.verified[digest] = true
	return true
}
