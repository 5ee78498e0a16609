package relay

import "sync/atomic"

// A budget bounds the memory that bodies take which are held as a whole.
type budget struct {
	most int64
	held atomic.Int64
}

// take reserves n bytes, or none. Who got them gives them back.
func (b *budget) take(n int64) bool {
	if b.held.Add(n) > b.most {
		b.held.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.held.Add(-n) }
