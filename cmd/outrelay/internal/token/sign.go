// Package token makes JSON Web Tokens from a key in a file, as a token issuer of
// one's own would (protocol section 7). Shared access signatures are made by
// package schemas.
package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/outrelay/outrelay/gateway/access"
)

// minSecret is the length of a secret for HS256 in bytes (RFC 7518 section 3.2).
const minSecret = 32

// minRSA is the length of an RSA key in bits (RFC 7518 section 3.3).
const minRSA = 2048

// A Key signs tokens. Make one with [ParseKey].
type Key struct {
	method jwt.SigningMethod
	key    any
}

// ParseKey reads the content of a key file: a private key in PEM (RSA, P-256 or
// Ed25519, without a password), else a secret of at least 32 bytes for HS256,
// blanks around it left out. algorithm chooses where the key leaves a choice, which
// is between RS256 and PS256; "" is the first that fits. No error holds the content.
func ParseKey(content []byte, algorithm string) (*Key, error) {
	content = bytes.TrimSpace(content)
	methods, key, err := methodsOf(content)
	if err != nil {
		return nil, err
	}
	for _, m := range methods {
		if algorithm == "" || m.Alg() == algorithm {
			return &Key{m, key}, nil
		}
	}
	var names []string
	for _, m := range methods {
		names = append(names, m.Alg())
	}
	return nil, fmt.Errorf("the key can't sign with %q, only with %v", algorithm, names)
}

// methodsOf finds what a key is for.
func methodsOf(content []byte) ([]jwt.SigningMethod, any, error) {
	if !bytes.HasPrefix(content, []byte("-----BEGIN ")) {
		if len(content) < minSecret {
			return nil, nil, fmt.Errorf("the file holds a secret of %d bytes; HS256 needs at least %d", len(content), minSecret)
		}
		return []jwt.SigningMethod{jwt.SigningMethodHS256}, content, nil
	}
	private, err := privateKey(content)
	if err != nil {
		return nil, nil, err
	}
	switch k := private.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSA {
			return nil, nil, fmt.Errorf("the RSA key has %d bits; at least %d are needed", k.N.BitLen(), minRSA)
		}
		return []jwt.SigningMethod{jwt.SigningMethodRS256, jwt.SigningMethodPS256}, k, nil
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() {
			return nil, nil, errors.New("the elliptic key is on another curve than P-256, the only one that is taken")
		}
		return []jwt.SigningMethod{jwt.SigningMethodES256}, k, nil
	case ed25519.PrivateKey:
		return []jwt.SigningMethod{jwt.SigningMethodEdDSA}, k, nil
	}
	return nil, nil, errors.New("the private key is of a kind that no token can be signed with")
}

// privateKey reads the first private key of a PEM file; what else tools write into
// one, such as the parameters of a curve, is passed over.
func privateKey(content []byte) (crypto.PrivateKey, error) {
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return nil, errors.New("the file holds no private key in PEM without a password")
		}
		switch block.Type {
		case "PRIVATE KEY":
			if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				return k, nil
			}
		case "RSA PRIVATE KEY":
			if k, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
				return k, nil
			}
		case "EC PRIVATE KEY":
			if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return k, nil
			}
		}
	}
}

// Algorithm is what the key signs with, as in the token's header.
func (k *Key) Algorithm() string { return k.method.Alg() }

// Claims are what a token says.
type Claims struct {
	// KeyID names the key among its issuer's; "" to name none.
	KeyID             string
	Issuer, Subject   string
	Audience          string
	Expires, NotSince time.Time // NotSince is zero for no claim nbf
	Rights            access.Rights
}

// Sign makes a token in compact form.
func (k *Key) Sign(c Claims) (string, error) {
	claims := jwt.MapClaims{
		"iss": c.Issuer, "aud": c.Audience, "iat": time.Now().Unix(), "exp": c.Expires.Unix(), "outrelay": c.Rights,
	}
	if c.Subject != "" {
		claims["sub"] = c.Subject
	}
	if !c.NotSince.IsZero() {
		claims["nbf"] = c.NotSince.Unix()
	}
	t := jwt.NewWithClaims(k.method, claims)
	if c.KeyID != "" {
		t.Header["kid"] = c.KeyID
	}
	return t.SignedString(k.key)
}
