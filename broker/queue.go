package broker

// A queue is a list that grows at the end and shrinks at the beginning, in a ring of
// memory that is used again. The zero value is empty.
type queue[T any] struct {
	held  []T // of a length that is a power of two
	first int // the place of the oldest in held
	n     int
}

// leastQueue is the memory that a queue keeps, once it has had any.
const leastQueue = 64

func (q *queue[T]) len() int { return q.n }

// at returns the item with i items before it.
func (q *queue[T]) at(i int) T { return q.held[(q.first+i)&(len(q.held)-1)] }

func (q *queue[T]) push(item T) {
	if q.n == len(q.held) {
		q.resize(max(leastQueue, 2*q.n))
	}
	q.held[(q.first+q.n)&(len(q.held)-1)] = item
	q.n++
}

// pop takes the oldest item out.
func (q *queue[T]) pop() T {
	item := q.held[q.first]
	var none T
	q.held[q.first] = none
	q.first = (q.first + 1) & (len(q.held) - 1)
	q.n--
	if len(q.held) > leastQueue && q.n <= len(q.held)/8 {
		q.resize(len(q.held) / 4)
	}
	return item
}

func (q *queue[T]) resize(size int) {
	held := make([]T, size)
	for i := range q.n {
		held[i] = q.at(i)
	}
	q.held, q.first = held, 0
}
