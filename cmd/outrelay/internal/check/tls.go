package check

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// checkTLS looks at the certificate chain without trusting it, so that a bad one can be
// described, and judges it as the clients do.
func (r *run) checkTLS() {
	if r.skip(StepTLS, StepName, StepProxy, StepTCP) {
		return
	}
	if !r.secure {
		r.say(Result{Step: StepTLS, Status: Skipped, Detail: "the address begins with http:, so nothing is encrypted, tokens neither"})
		r.client = &http.Client{Transport: r.transport(), CheckRedirect: stay}
		return
	}
	result := Result{Step: StepTLS, Status: Failed, Cause: Network, Host: r.host, Port: r.port}
	ctx, cancel := r.limited()
	defer cancel()
	conn, err := r.Client.Connect(ctx, r.address(r.port))
	if err != nil {
		result.Detail = "the second connection is not opened: " + network(err)
		result.Tell = "try again; a connection was opened a moment ago"
		r.say(result)
		return
	}
	defer conn.Close()
	config := r.tls()
	config.InsecureSkipVerify = true // judge does it
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		r.handshake(&result, err)
		r.say(result)
		return
	}
	state := secured.ConnectionState()
	leaf := state.PeerCertificates[0]
	result.Issuer, result.Expires = name(leaf.Issuer), &leaf.NotAfter
	r.judge(&result, state, func() (time.Time, bool) { return r.dateOf(ctx, secured) })
	r.say(result)
	if result.Status != Failed {
		r.client = &http.Client{Transport: r.transport(), CheckRedirect: stay}
	}
}

// A redirect leads to somebody else, and the gateway sends none.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// handshake says why there is no TLS.
func (r *run) handshake(result *Result, err error) {
	var record tls.RecordHeaderError
	var alert tls.AlertError
	owner := fmt.Sprintf("tell the firewall's owner to let TLS to %s pass as it is, without looking into it", r.address(r.port))
	switch {
	case errors.As(err, &record):
		result.Detail = fmt.Sprintf("what answers at %s speaks no TLS", r.address(r.port))
		result.Tell = "check the port, and whether the address should begin with http:; else it is a proxy or a portal that answers in the gateway's place"
	case errors.As(err, &alert):
		result.Detail = "TLS is refused: " + clean(alert.Error())
		result.Tell = fmt.Sprintf("check the host name; the gateway, or something in its place, has no certificate for %s, or wants one of yours", r.host)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		result.Detail = fmt.Sprintf("the connection is cut at the first message of TLS, which has the name %s", r.host)
		result.Tell = owner
	case errors.Is(err, context.DeadlineExceeded):
		result.Detail = fmt.Sprintf("the connection is open, but TLS gets no answer in %v", r.Timeout)
		result.Tell = owner
	default:
		result.Detail = "there is no TLS: " + network(err)
		result.Tell = owner
	}
}

// judge says whether the chain is good, and who signed it. date is the clock of the
// other side, if it tells it.
func (r *run) judge(result *Result, state tls.ConnectionState, date func() (time.Time, bool)) {
	leaf := state.PeerCertificates[0]
	options := x509.VerifyOptions{DNSName: r.tls().ServerName, CurrentTime: r.Now(), Intermediates: x509.NewCertPool(), Roots: r.tls().RootCAs}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(options)
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		r.expired(result, cmp.Or(invalid.Cert, leaf), date)
		return
	case errors.As(err, &host):
		result.Detail = fmt.Sprintf("the certificate is not for %s but for %s; %s issued it", r.host, names(leaf), result.Issuer)
		result.Tell = fmt.Sprintf("check the host name; else tell whoever runs the gateway that its certificate lacks %s, or the firewall's owner that something else answers in its place", r.host)
		return
	case errors.As(err, &unknown):
		result.Detail = fmt.Sprintf("an unknown authority issued the certificate: %s, whom this machine does not trust%s. It is the gateway's own authority, or a proxy that opens TLS and signs anew", result.Issuer, r.orCA())
		result.Tell = fmt.Sprintf("if it is the gateway's own authority, get its certificate and give it with --ca FILE; if it is the company's, tell the firewall's owner to leave TLS to %s unopened, or give its certificate with --ca FILE", r.host)
		return
	case err != nil:
		result.Detail = fmt.Sprintf("the certificate, issued by %s, can't be trusted: %s", result.Issuer, clean(err.Error()))
		result.Tell = "tell whoever runs the gateway"
		return
	}
	result.Status, result.Cause = OK, 0
	root := name(chains[0][len(chains[0])-1].Subject)
	until := leaf.NotAfter.UTC().Format(time.DateOnly)
	options.Roots = r.CA
	_, byCA := leaf.Verify(options)
	logged := len(state.SignedCertificateTimestamps) > 0
	for _, e := range leaf.Extensions {
		logged = logged || e.Id.Equal(timestampList)
	}
	switch {
	case r.CA != nil && byCA == nil:
		result.Detail = fmt.Sprintf("%s, of --ca, issued the certificate; it holds until %s", root, until)
	case logged && r.CA != nil:
		result.Detail = fmt.Sprintf("%s, a public authority and none of --ca, issued the certificate; it holds until %s", root, until)
	case logged:
		result.Detail = fmt.Sprintf("%s, a public authority, issued the certificate; it holds until %s", root, until)
	default:
		result.Status = Warning
		result.Detail = fmt.Sprintf("%s issued the certificate; this machine trusts it%s, but it is no public authority: it is the gateway's own, or a proxy that opens TLS and signs anew; the certificate holds until %s", root, butCA(r.CA), until)
		result.Tell = fmt.Sprintf("if that is not the gateway's authority, tell the firewall's owner to leave TLS to %s unopened; what opens it reads everything, tokens too, and often breaks WebSockets", r.host)
	}
	if left, life := leaf.NotAfter.Sub(r.Now()), leaf.NotAfter.Sub(leaf.NotBefore); left < 3*24*time.Hour && life > 10*24*time.Hour && result.Status == OK {
		result.Status = Warning
		result.Tell = "tell whoever runs the gateway that its certificate is about to expire"
	}
}

// timestampList is the extension with the logs that a certificate is in (RFC 6962
// section 3.3). Those of public authorities have it, because browsers ask for it; those
// that a proxy or a company signs for itself have not.
var timestampList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

func (r *run) orCA() string {
	if r.CA != nil {
		return ", and which is not of --ca"
	}
	return ""
}

func butCA(ca *x509.CertPool) string {
	if ca != nil {
		return " though it is not of --ca"
	}
	return ""
}

// expired says whose fault it is that a certificate does not hold now: perhaps it is
// this machine's clock.
func (r *run) expired(result *Result, c *x509.Certificate, date func() (time.Time, bool)) {
	now := r.Now()
	what := "expired on " + c.NotAfter.UTC().Format(time.RFC1123)
	if now.Before(c.NotBefore) {
		what = "does not hold before " + c.NotBefore.UTC().Format(time.RFC1123)
	}
	result.Detail = fmt.Sprintf("the certificate, issued by %s, %s", result.Issuer, what)
	result.Tell = "tell whoever runs the gateway that it needs a new certificate"
	if other, ok := date(); ok && !other.Before(c.NotBefore) && !other.After(c.NotAfter) {
		result.Cause = Access
		result.Detail += fmt.Sprintf(", by this machine's clock, which is %s", apart(now.Sub(other)))
		result.Tell = "set this machine's clock right, with NTP"
	}
}

// dateOf asks who is at the other end of a connection for the time. What it says is
// trusted no further than to explain a failure.
func (r *run) dateOf(ctx context.Context, conn *tls.Conn) (time.Time, bool) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	q, err := http.NewRequest(http.MethodGet, r.base+"/healthz", nil)
	if err != nil || q.Write(conn) != nil {
		return time.Time{}, false
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, 64<<10)), q)
	if err != nil {
		return time.Time{}, false
	}
	resp.Body.Close()
	t, err := http.ParseTime(resp.Header.Get("Date"))
	return t, err == nil
}

// name is who a certificate is of, as people know it.
func name(n pkix.Name) string {
	organisation := strings.Join(n.Organization, ", ")
	switch {
	case n.CommonName != "" && organisation != "" && !strings.Contains(n.CommonName, organisation):
		return clean(fmt.Sprintf("%q (%s)", n.CommonName, organisation))
	case n.CommonName != "":
		return clean(fmt.Sprintf("%q", n.CommonName))
	}
	return clean(fmt.Sprintf("%q", cmp.Or(organisation, n.String())))
}

// names are the hosts that a certificate is for.
func names(c *x509.Certificate) string {
	all := c.DNSNames
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	const most = 5
	if len(all) > most {
		all = append(all[:most:most], fmt.Sprintf("%d others", len(all)-most))
	}
	if len(all) == 0 {
		return "no host at all"
	}
	return clean(strings.Join(all, ", "))
}
