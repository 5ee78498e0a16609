package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	_ "embed"
)

//go:embed config/outrelay.yaml
var outrelayConfig []byte

// A measurement is a workload and what came of it, by run and round.
type measurement struct {
	workload
	results [][]result
	record  record
}

// measureAll measures what the options ask for and writes the results.
func measureAll(o options) error {
	folder, err := os.MkdirTemp("", "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if o.binary == "" {
		o.binary = filepath.Join(folder, "outrelay")
		build := exec.Command("go", "build", "-C", "../..", "-o", o.binary, "./cmd/outrelay")
		if b, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build outrelay: %w\n%s", err, b)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "outrelay.yaml"), outrelayConfig, 0o600); err != nil {
		return err
	}
	if err := writeCertificate(folder); err != nil {
		return err
	}
	var all []*measurement
	var faults []error
	for _, w := range plan(o) {
		m := measureRounds(w, o, folder)
		all = append(all, m)
		for _, f := range m.record.Faults {
			faults = append(faults, errors.New(f))
		}
		if o.out == "" {
			continue
		}
		if err := errors.Join(m.save(o.out), publish(o.out)); err != nil {
			return err
		}
	}
	if o.out == "" {
		fmt.Print(report(all))
		return errors.Join(faults...)
	}
	return errors.Join(append(faults, publish(o.out))...)
}

// shown is the command as the results have it: without paths, which are of one machine.
func shown(args []string) string {
	text := "go run ."
	for i := 0; i < len(args); i++ {
		if args[i] == "-outrelay" || args[i] == "-out" {
			i++
			continue
		}
		text += " " + args[i]
	}
	return text
}

// measureRounds measures a workload.
func measureRounds(w workload, o options, folder string) *measurement {
	m := &measurement{workload: w, results: make([][]result, len(w.runs))}
	m.record = record{When: time.Now().UTC(), Commit: commit(), Command: shown(o.args)}
	fault := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		m.record.Faults = append(m.record.Faults, err.Error())
	}
	for round := range w.rounds {
		for i, do := range w.runs {
			profile := ""
			if o.profile != "" && peers[do.spec.Peer].server == "outrelay" {
				profile = filepath.Join(o.profile, fmt.Sprintf("%s-%d-%d.pprof", w.name, i, round))
			}
			r, err := measure(do, o.binary, folder, profile)
			if err == nil && len(r.Wrong) > 0 {
				err = errors.New(strings.Join(r.Wrong, "; "))
			}
			name := fmt.Sprintf("%s %d/%d, %s", w.name, round+1, w.rounds, do.label)
			if err != nil {
				fault(fmt.Errorf("%s: %w", name, err))
				continue
			}
			m.results[i] = append(m.results[i], r)
			fmt.Fprintf(os.Stderr, "%s: %s\n", name, brief(w.table, r))
		}
	}
	for _, err := range tooGood(m) {
		fault(err)
	}
	m.record.Took = time.Since(m.record.When).Seconds()
	return m
}

// measure starts a peer, has it loaded once, and ends it. profile is a file for the
// server's profile, or "".
func measure(do run, binary, folder, profile string) (r result, err error) {
	if do.spec.Kind == acked {
		return benchmark(do.spec, folder, profile)
	}
	own, err := os.MkdirTemp(folder, do.spec.Peer)
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(own)
	s, err := startServer(peers[do.spec.Peer], binary, own, do.gather)
	if err != nil {
		return r, err
	}
	defer func() {
		s.stop()
		if err != nil {
			err = fmt.Errorf("%w; the server said: %s", err, s.tail())
		}
	}()
	do.spec.Address, do.spec.TLS, do.spec.PID = s.address, s.secure, s.cmd.Process.Pid
	do.spec.KeyName, do.spec.KeyFile = s.keyName, s.keyFile
	if profile != "" {
		done := s.profile(profile, max(time.Second, do.spec.Warm+do.spec.Measure))
		defer func() { err = errors.Join(err, <-done) }()
	}
	return load(do.spec)
}

// writeCertificate makes a certificate for localhost, ECDSA P-256.
func writeCertificate(folder string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
