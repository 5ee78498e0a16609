//go:build !race

package schemas_test

const poolForgets = 0
