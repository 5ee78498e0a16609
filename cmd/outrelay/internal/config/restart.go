package config

import "reflect"

// Restart names the keys that next has otherwise than c and that take a restart;
// all other differences can be taken over by a gateway that runs.
func (c *Config) Restart(next *Config) []string {
	var keys []string
	compare := func(path string, a, b reflect.Value) {
		for _, f := range fieldsOf(a.Type()) {
			x, y := a.FieldByIndex(f.index), b.FieldByIndex(f.index)
			if f.key == "namespaces" || f.key == "tls" || f.reload || reflect.DeepEqual(x.Interface(), y.Interface()) {
				continue
			}
			keys = append(keys, join(path, f.key))
		}
	}
	compare("", reflect.ValueOf(c).Elem(), reflect.ValueOf(next).Elem())
	if (c.Certificate == nil) != (next.Certificate == nil) || !reflect.DeepEqual(c.TLS.ACME, next.TLS.ACME) {
		keys = append(keys, "tls")
	}
	if c.TakesCertificates() != next.TakesCertificates() {
		keys = append(keys, "clientcertificates")
	}
	for name, ns := range c.Namespaces {
		if other, ok := next.Namespaces[name]; ok {
			compare("namespaces."+name, reflect.ValueOf(ns).Elem(), reflect.ValueOf(other).Elem())
		} else {
			keys = append(keys, "namespaces."+name)
		}
	}
	for name := range next.Namespaces {
		if c.Namespaces[name] == nil {
			keys = append(keys, "namespaces."+name)
		}
	}
	return keys
}
