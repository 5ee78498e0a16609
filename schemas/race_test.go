//go:build race

package schemas_test

// Under the race detector a pool forgets some of what it is given.
const poolForgets = 30
