package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A host starts servers and loads, each pinned to its processor.
type host struct{ dir, outrelay string }

func (h *host) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(h.dir, "cert.pem"), cert, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h.dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600)
}

// config is outrelay's: everything open, live/** not stored.
const config = `https: %s
http: %s
admin: 127.0.0.1:0
tls: {cert: cert.pem, key: key.pem}
data: %s
hosts: [localhost]
anonymous: {publish: ["**"], subscribe: ["**"]}
topics: [{filter: "live/**", stored: false}]
limits: {maxconnections: 20000, maxstreams: 20000}
`

// measure starts a peer, loads it once, and ends it.
func (h *host) measure(peer string, w workload) (result, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return result{}, err
	}
	address := l.Addr().String()
	l.Close()
	own, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	data := filepath.Join(h.dir, "data")
	defer os.RemoveAll(data)
	var server *exec.Cmd
	target := address
	if peer == "outrelay" {
		https, http := "127.0.0.1:0", address
		if strings.HasSuffix(w.Name, "-tls") {
			https, http, target = address, "127.0.0.1:0", "https://"+address
		}
		file := filepath.Join(h.dir, "outrelay.yaml")
		if err := os.WriteFile(file, fmt.Appendf(nil, config, https, http, data), 0o600); err != nil {
			return result{}, err
		}
		server = exec.Command("taskset", "-c", "0", h.outrelay, "serve", "--config", file)
	} else {
		server = exec.Command("taskset", "-c", "0", own, "serve", peer, address)
	}
	server.Env = append(os.Environ(), "GOMAXPROCS=1")
	var output bytes.Buffer
	server.Stdout, server.Stderr = &output, &output
	if err := server.Start(); err != nil {
		return result{}, err
	}
	defer func() {
		server.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { server.Process.Kill() })
		server.Wait()
		timer.Stop()
	}()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			return result{}, fmt.Errorf("does not listen: %s", output.String())
		}
	}
	time.Sleep(300 * time.Millisecond)
	spec, err := json.Marshal(w)
	if err != nil {
		return result{}, err
	}
	load := exec.Command("taskset", "-c", "1", own, "load", peer, target, fmt.Sprint(server.Process.Pid), string(spec))
	load.Env = append(os.Environ(), "GOMAXPROCS=1")
	load.Stderr = os.Stderr
	b, err := load.Output()
	if err != nil {
		return result{}, fmt.Errorf("load: %w; server: %s", err, output.String())
	}
	var r result
	if err := json.Unmarshal(b, &r); err != nil {
		return result{}, fmt.Errorf("load said %q: %w", b, err)
	}
	return r, nil
}
