package main

import (
	"log"
	"os/exec"
	"sync"

	"govmomi/vim25/types"
)

// What stands behind a machine follows it: the simulator keeps its own word of snapshots and power, and the lab's program does the
// same to the guest that it put there.

var behind = struct {
	sync.Mutex
	of map[types.ManagedObjectReference]string
}{of: map[types.ManagedObjectReference]string{}}

// follow runs the program behind a machine, if there is one: PROGRAM snapshot|revert|remove SNAPSHOT, PROGRAM on.
func follow(vm types.ManagedObjectReference, words ...string) {
	behind.Lock()
	program, ok := behind.of[vm]
	behind.Unlock()
	if !ok {
		return
	}
	if output, err := exec.Command(program, words...).CombinedOutput(); err != nil {
		log.Printf("behind %s: %v: %v: %s", vm.Value, words, err, output)
	}
}
