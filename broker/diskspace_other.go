//go:build !unix || netbsd || openbsd || solaris || illumos || aix

package broker

// diskSpace can't be known here; a full disk is noticed when a write fails.
func diskSpace(string) (free, size uint64, ok bool) { return 0, 0, false }
