package relay

import "github.com/outrelay/outrelay/schemas"

type answer struct{}

func (v *visit) request() error { return schemas.Problemf("internal", "not yet") }

func (l *listener) responded(r *response) error { return nil }
