package access

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The algorithms, as in RFC 7518 section 3.1 and RFC 8037.
const (
	algHS256 = "HS256"
	algRS256 = "RS256"
	algPS256 = "PS256"
	algES256 = "ES256"
	algEdDSA = "EdDSA"
)

// keyAlgorithms are those whose keys an issuer publishes.
var keyAlgorithms = []string{algRS256, algPS256, algES256, algEdDSA}

// A keyID names a key within its issuer. That the algorithm is a part of it pins
// the algorithm: a key is never found for another.
type keyID struct{ kid, alg string }

// A verifyKey is a key that tokens are verified with.
type verifyKey struct {
	key    any // for the methods of golang-jwt: []byte, *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey
	digest [sha256.Size]byte
}

// maxKeys is how many keys of one issuer are kept; more are a fault of the set.
const maxKeys = 100

var errNoKeys = errors.New("the key set has no key that can be used")

// parseKeySet reads a JSON Web Key Set (RFC 7517 section 5). Keys that are not for
// verifying with one of [keyAlgorithms], or can't be read, are left out, as the
// RFC asks; so are the certificates and addresses that a key may carry. Of two keys
// with one name and algorithm neither is taken. An error for a set without a key.
func parseKeySet(b []byte) (map[keyID]verifyKey, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("the key set is not valid JSON")
	}
	if len(set.Keys) > maxKeys {
		return nil, errors.New("the key set has too many keys")
	}
	keys := map[keyID]verifyKey{}
	twice := map[keyID]bool{}
	for _, raw := range set.Keys {
		kid, algorithms, key, ok := parseKey(raw)
		if !ok {
			continue
		}
		for _, alg := range algorithms {
			id := keyID{kid, alg}
			if other, exists := keys[id]; exists && other.digest != key.digest {
				twice[id] = true
			}
			keys[id] = key
		}
	}
	for id := range twice {
		delete(keys, id)
	}
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	return keys, nil
}

// parseKey reads one JSON Web Key and the algorithms it is for: the one it names,
// else all that its type can do.
func parseKey(raw []byte) (kid string, algorithms []string, key verifyKey, ok bool) {
	var k struct {
		Kid string   `json:"kid"`
		Kty string   `json:"kty"`
		Alg string   `json:"alg"`
		Use string   `json:"use"`
		Ops []string `json:"key_ops"`
		Crv string   `json:"crv"`
		N   string   `json:"n"`
		E   string   `json:"e"`
		X   string   `json:"x"`
		Y   string   `json:"y"`
	}
	if json.Unmarshal(raw, &k) != nil || k.Use != "" && k.Use != "sig" || k.Ops != nil && !slices.Contains(k.Ops, "verify") {
		return "", nil, verifyKey{}, false
	}
	switch {
	case k.Kty == "RSA":
		key.key, ok = parseRSA(k.N, k.E)
		algorithms = []string{algRS256, algPS256}
	case k.Kty == "EC" && k.Crv == "P-256":
		key.key, ok = parseP256(k.X, k.Y)
		algorithms = []string{algES256}
	case k.Kty == "OKP" && k.Crv == "Ed25519":
		var x []byte
		x, ok = keyBytes(k.X)
		key.key, ok = ed25519.PublicKey(x), ok && len(x) == ed25519.PublicKeySize
		algorithms = []string{algEdDSA}
	}
	if k.Alg == "Ed25519" { // RFC 9864's name for the same
		k.Alg = algEdDSA
	}
	if ok && k.Alg != "" {
		ok = slices.Contains(algorithms, k.Alg)
		algorithms = []string{k.Alg}
	}
	if !ok {
		return "", nil, verifyKey{}, false
	}
	der, err := x509.MarshalPKIXPublicKey(key.key)
	key.digest = sha256.Sum256(der)
	return k.Kid, algorithms, key, err == nil
}

func parseRSA(modulus, exponent string) (*rsa.PublicKey, bool) {
	n, okN := keyBytes(modulus)
	e, okE := keyBytes(exponent)
	if !okN || !okE || len(n) > 8192/8 || len(e) == 0 || len(e) > 4 {
		return nil, false
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	return key, key.N.BitLen() >= 2048 && key.N.Bit(0) == 1 && key.E >= 3 && key.E%2 == 1 && key.E < 1<<31
}

func parseP256(x, y string) (*ecdsa.PublicKey, bool) {
	bx, okX := keyBytes(x)
	by, okY := keyBytes(y)
	if !okX || !okY || len(bx) != 32 || len(by) != 32 {
		return nil, false
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, bx, by))
	return key, err == nil
}

func keyBytes(s string) ([]byte, bool) {
	return decodeBase64(base64.RawURLEncoding, s)
}
