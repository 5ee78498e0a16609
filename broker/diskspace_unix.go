//go:build unix && !netbsd && !openbsd && !solaris && !illumos && !aix

package broker

import "golang.org/x/sys/unix"

// diskSpace is how many bytes of the disk under dir are free for this process, and how
// many it has in all; ok is false where that can't be known.
func diskSpace(dir string) (free, size uint64, ok bool) {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0, 0, false
	}
	return uint64(s.Bavail) * uint64(s.Bsize), uint64(s.Blocks) * uint64(s.Bsize), true
}
