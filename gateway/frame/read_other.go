//go:build !unix

package frame

const direct = false

type directly struct{}

func (s *Socket) readAll() (int, error) { panic("frame: there is no descriptor") }
