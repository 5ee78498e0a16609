package config

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/outrelay/outrelay/gateway/access"
)

// maxSecretFile is the longest file of a key in bytes.
const maxSecretFile = 4 << 10

// readSecrets reads the files of a namespace's keys and secrets.
func (l *loader) readSecrets(at string, ns *Namespace) {
	read := func(path, file string) access.Secret {
		if file == "" {
			return ""
		}
		secret, err := ReadSecret(file)
		if err != nil {
			l.fault(path, "%s: %s", file, fileFault(err))
		} else if secret == "" {
			l.fault(path, "%s is empty; write a key into it, such as 32 random bytes in base64", file)
		}
		return secret
	}
	for i := range ns.Keys {
		k, path := &ns.Keys[i], fmt.Sprintf("%skeys[%d]", at, i)
		k.primary = read(path+".primaryfile", k.PrimaryFile)
		k.secondary = read(path+".secondaryfile", k.SecondaryFile)
	}
	for i := range ns.JWT {
		j := &ns.JWT[i]
		j.secret = read(fmt.Sprintf("%sjwt[%d].secretfile", at, i), j.SecretFile)
	}
}

// ReadSecret reads a file that holds a secret alone; blanks and line ends around it
// are no part of it.
func ReadSecret(file string) (access.Secret, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	if err != nil {
		return "", err
	}
	return access.Secret(strings.TrimSpace(string(b))), nil
}
