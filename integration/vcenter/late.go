package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"govmomi/simulator"
	"govmomi/vim25/types"
)

// A task whose work comes late: after a while, or once its machine's question is answered ("runtime.question: the current question ...
// that is blocking the virtual machine's execution"). Until then the machine is busy: "TaskInProgress: if the virtual machine is busy".
type lateness struct {
	after time.Duration
	asks  string
}

var late = struct {
	sync.Mutex
	plans map[string]lateness
	busy  map[types.ManagedObjectReference]bool
}{plans: map[string]lateness{}, busy: map[types.ManagedObjectReference]bool{}}

var answers = make(chan struct{})

func (p lateness) of(method string) {
	late.Lock()
	defer late.Unlock()
	late.plans[method] = p
}

// answered lets the task of the machine that asks go on.
func answered() error {
	select {
	case answers <- struct{}{}:
		return nil
	case <-time.After(5 * time.Second):
		return fmt.Errorf("no machine asks anything")
	}
}

// works puts a task among those that operate on a machine, or did of late (ManagedEntity.recentTask). The simulator does not.
func works(vm *simulator.VirtualMachine, task types.ManagedObjectReference) {
	recent := append([]types.ManagedObjectReference{task}, vm.RecentTask...)
	simulator.Map.Update(vm, []types.PropertyChange{{Name: "recentTask", Val: recent}})
}

// delayed is the task of a method whose work, do, comes late; nil: it does not.
func delayed(method string, vm *simulator.VirtualMachine, do func() types.ManagedObjectReference) (*types.ManagedObjectReference, types.BaseMethodFault) {
	late.Lock()
	defer late.Unlock()
	if late.busy[vm.Self] {
		return nil, new(types.TaskInProgress)
	}
	plan, ok := late.plans[method]
	if !ok {
		return nil, nil
	}
	delete(late.plans, method)
	late.busy[vm.Self] = true
	task := simulator.CreateTask(vm, strings.TrimSuffix(method, "_Task"), nil)
	simulator.Map.Update(task, []types.PropertyChange{{Name: "info.state", Val: types.TaskInfoStateRunning}})
	works(vm, task.Self)
	if plan.asks != "" {
		asks := &types.VirtualMachineQuestionInfo{Id: "1", Text: plan.asks, Choice: types.ChoiceOption{
			ChoiceInfo: []types.BaseElementDescription{&types.ElementDescription{
				Description: types.Description{Label: "button.ok", Summary: "OK"}, Key: "0",
			}},
		}}
		simulator.Map.Update(vm, []types.PropertyChange{{Name: "runtime.question", Val: asks}})
	}
	go func() {
		if plan.asks == "" {
			time.Sleep(plan.after)
		} else {
			<-answers
			// Not by an update: the simulator does not survive one that takes away what is a pointer.
			vm.Runtime.Question = nil
		}
		late.Lock()
		delete(late.busy, vm.Self)
		late.Unlock()
		done := simulator.Map.Get(do()).(*simulator.Task).Info
		changes := []types.PropertyChange{{Name: "info.result", Val: done.Result}}
		if done.Error != nil {
			changes = append(changes, types.PropertyChange{Name: "info.error", Val: *done.Error})
		}
		simulator.Map.Update(task, append(changes, types.PropertyChange{Name: "info.state", Val: done.State}))
	}()
	return &task.Self, nil
}
