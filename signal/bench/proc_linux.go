package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// cpuTime is what processes have used, in user and system mode (proc(5)).
func cpuTime(pids []int) (sum time.Duration) {
	const tick = time.Second / 100 // USER_HZ, the same on all Linux
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The name is in brackets and may hold anything; the fields after it do not.
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		for _, field := range f[11:13] {
			n, _ := strconv.ParseInt(string(field), 10, 64)
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// rssOf is the resident memory of a process in bytes.
func rssOf(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	pages, _ := strconv.ParseInt(string(f[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

// dieWithParent lets no server outlive a bench that is killed.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }

// Alive says whether there is such a process.
func Alive(pid int) error { return syscall.Kill(pid, 0) }
