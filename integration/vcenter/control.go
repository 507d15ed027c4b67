package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"govmomi/simulator"
	"govmomi/vim25/methods"
	"govmomi/vim25/mo"
	"govmomi/vim25/types"
)

// The lab's control: a line asked, a line answered ("ok …" or "error …").
//
//	expire                         end all sessions; answers how many
//	sessions                       how many there are
//	fail METHOD [FAULT]            the next task of this method fails, before it did anything
//	forget                         the next guest operation is refused as if the session had expired, which it has not
//	away MILLISECONDS              for so long what stands before the server answers in its stead that it is away
//	hold METHOD MILLISECONDS       the next task of this method goes on for so long after its work is done
//	late METHOD MILLISECONDS       the next task of this method does its work after so long (CreateSnapshot_Task, RemoveSnapshot_Task,
//	                               PowerOnVM_Task)
//	ask METHOD TEXT                the next task of this method does its work once what its machine asks is answered (those, too)
//	answer                         it is
//	folder NAME                    a folder in the first data center's folder of machines
//	machine FOLDER NAME            a machine in it
//	guest NAME USER PASSWORD ARGV  guest operations of a machine reach this: ARGV (JSON) gets one more word, a line for a shell
//	tools NAME on|off              whether its tools run
//	behind NAME USER PASSWORD PROGRAM
//	                               what is done to it is done by this, too, and it is entered by it. Answers MACHINE, its id.
//	                               PROGRAM MACHINE snapshot|revert|remove ID, on CARD…, off, cards CARD…, clone ID MACHINE, destroy,
//	                               enter LINE; a CARD is MAC,CONNECTED,CONNECTED-AT-START
type sessionKeys struct {
	sync.Mutex
	keys []string
}

var sessions sessionKeys

func (s *sessionKeys) add(key string) {
	s.Lock()
	defer s.Unlock()
	s.keys = append(s.keys, key)
}

func (s *sessionKeys) active() []string {
	manager := simulator.Map.SessionManager()
	ctx := other()
	var active []string
	for _, key := range s.keys {
		asked := &types.SessionIsActive{SessionID: key, UserName: "user"}
		if body := manager.SessionIsActive(ctx, asked).(*methods.SessionIsActiveBody); body.Res != nil && body.Res.Returnval {
			active = append(active, key)
		}
	}
	return active
}

func (s *sessionKeys) expire() int {
	s.Lock()
	defer s.Unlock()
	active := s.active()
	simulator.Map.SessionManager().TerminateSession(other(), &types.TerminateSession{SessionId: active})
	s.keys = nil
	return len(active)
}

// other is a session that no client has.
func other() *simulator.Context {
	return &simulator.Context{
		Session: &simulator.Session{UserSession: types.UserSession{Key: "lab"}, Registry: simulator.NewRegistry()},
		Map:     simulator.Map,
	}
}

type faultPlan struct {
	sync.Mutex
	fails   map[string]string
	holds   map[string]time.Duration
	forgets bool
	away    time.Time
}

var faults = faultPlan{fails: map[string]string{}, holds: map[string]time.Duration{}}

// take is a task that has failed, if the next of this method shall.
func (f *faultPlan) take(method string, of types.ManagedObjectReference) *types.ManagedObjectReference {
	f.Lock()
	defer f.Unlock()
	kind, ok := f.fails[method]
	if !ok {
		return nil
	}
	delete(f.fails, method)
	task := simulator.CreateTask(mo.Reference(of), method, func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		switch kind {
		case "TaskInProgress":
			return nil, new(types.TaskInProgress)
		default:
			return nil, &types.FileFault{File: "[LocalDS_0] " + kind}
		}
	})
	reference := task.Run()
	return &reference
}

// forgotten tells whether this guest operation is the one that knows of no session.
func (f *faultPlan) forgotten() bool {
	f.Lock()
	defer f.Unlock()
	was := f.forgets
	f.forgets = false
	return was
}

// gate answers as a vCenter's reverse proxy does while the service behind it is away.
func (f *faultPlan) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.Lock()
		away := time.Now().Before(f.away)
		f.Unlock()
		if away {
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (f *faultPlan) held(method string) time.Duration {
	f.Lock()
	defer f.Unlock()
	length := f.holds[method]
	delete(f.holds, method)
	return length
}

func named(name string) (*simulator.VirtualMachine, error) {
	for _, entity := range simulator.Map.All("VirtualMachine") {
		if vm, ok := entity.(*simulator.VirtualMachine); ok && vm.Name == name {
			return vm, nil
		}
	}
	return nil, fmt.Errorf("no machine is named %s", name)
}

func answer(line string) (string, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", fmt.Errorf("nothing was asked")
	}
	need := func(least int) error {
		if len(words) < least {
			return fmt.Errorf("%s wants %d words", words[0], least-1)
		}
		return nil
	}
	switch words[0] {
	case "expire":
		return strconv.Itoa(sessions.expire()), nil
	case "sessions":
		sessions.Lock()
		defer sessions.Unlock()
		return strconv.Itoa(len(sessions.active())), nil
	case "fail":
		if err := need(2); err != nil {
			return "", err
		}
		faults.Lock()
		defer faults.Unlock()
		faults.fails[words[1]] = strings.Join(words[2:], " ")
		return "", nil
	case "forget":
		faults.Lock()
		defer faults.Unlock()
		faults.forgets = true
		return "", nil
	case "away":
		if err := need(2); err != nil {
			return "", err
		}
		length, err := strconv.Atoi(words[1])
		faults.Lock()
		defer faults.Unlock()
		faults.away = time.Now().Add(time.Duration(length) * time.Millisecond)
		return "", err
	case "hold":
		if err := need(3); err != nil {
			return "", err
		}
		length, err := strconv.Atoi(words[2])
		faults.Lock()
		defer faults.Unlock()
		faults.holds[words[1]] = time.Duration(length) * time.Millisecond
		return "", err
	case "late":
		if err := need(3); err != nil {
			return "", err
		}
		length, err := strconv.Atoi(words[2])
		lateness{after: time.Duration(length) * time.Millisecond}.of(words[1])
		return "", err
	case "ask":
		if err := need(3); err != nil {
			return "", err
		}
		lateness{asks: strings.Join(words[2:], " ")}.of(words[1])
		return "", nil
	case "answer":
		return "", answered()
	case "folder":
		if err := need(2); err != nil {
			return "", err
		}
		return folder(words[1])
	case "machine":
		if err := need(3); err != nil {
			return "", err
		}
		return another(words[1], words[2])
	case "tools":
		if err := need(3); err != nil {
			return "", err
		}
		vm, err := named(words[1])
		if err == nil {
			tools(vm, words[2] == "on")
		}
		return "", err
	case "behind":
		if err := need(5); err != nil {
			return "", err
		}
		vm, err := named(words[1])
		if err != nil {
			return "", err
		}
		stand(vm.Self, &standIn{program: words[4], user: words[2], password: words[3]})
		tools(vm, true)
		plug(vm, vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn)
		return vm.Self.Value, nil
	case "guest":
		if err := need(5); err != nil {
			return "", err
		}
		vm, err := named(words[1])
		if err != nil {
			return "", err
		}
		inside := &guest{user: words[2], password: words[3]}
		if err := json.Unmarshal([]byte(strings.Join(words[4:], " ")), &inside.enter); err != nil {
			return "", err
		}
		guests.Lock()
		guests.of[vm.Self] = inside
		guests.Unlock()
		tools(vm, true)
		return "", nil
	}
	return "", fmt.Errorf("%s is no word of the lab's", words[0])
}

func tools(vm *simulator.VirtualMachine, on bool) {
	status := types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	if on {
		status = types.VirtualMachineToolsRunningStatusGuestToolsRunning
	}
	simulator.Map.Update(vm, []types.PropertyChange{
		{Name: "guest.toolsRunningStatus", Val: string(status)},
		{Name: "guest.toolsVersionStatus2", Val: "guestToolsUnmanaged"},
		{Name: "guest.toolsInstallType", Val: "guestToolsTypeOpenVMTools"},
	})
}

func firstFolder() (*simulator.Folder, error) {
	for _, entity := range simulator.Map.All("Datacenter") {
		if dc, ok := entity.(*simulator.Datacenter); ok {
			return simulator.Map.Get(dc.VmFolder).(*simulator.Folder), nil
		}
	}
	return nil, fmt.Errorf("there is no data center")
}

func folder(name string) (string, error) {
	top, err := firstFolder()
	if err != nil {
		return "", err
	}
	body := top.CreateFolder(other(), &types.CreateFolder{This: top.Self, Name: name})
	if fault := body.Fault(); fault != nil {
		return "", fmt.Errorf("%v", fault.VimFault())
	}
	return body.(*methods.CreateFolderBody).Res.Returnval.Value, nil
}

// another is a copy of the first machine there is, off, in a folder.
func another(in string, name string) (string, error) {
	like, err := named("DC0_H0_VM0")
	if err != nil {
		return "", err
	}
	for _, entity := range simulator.Map.All("Folder") {
		place, ok := entity.(*simulator.Folder)
		if !ok || place.Name != in {
			continue
		}
		ctx := other()
		ctx.Session.Registry.Put(&machine{like})
		asked := &types.CloneVM_Task{This: like.Self, Folder: place.Self, Name: name}
		body := (&machine{like}).CloneVMTask(ctx, asked).(*methods.CloneVM_TaskBody)
		task := simulator.Map.Get(body.Res.Returnval).(*simulator.Task)
		if task.Info.Error != nil {
			return "", fmt.Errorf("%T", task.Info.Error.Fault)
		}
		return simulator.Map.Get(task.Info.Result.(types.ManagedObjectReference)).(*simulator.VirtualMachine).Config.InstanceUuid, nil
	}
	return "", fmt.Errorf("no folder is named %s", in)
}

func listen(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				lines := bufio.NewScanner(connection)
				for lines.Scan() {
					said, err := answer(lines.Text())
					if err != nil {
						fmt.Fprintf(connection, "error %v\n", err)
					} else {
						fmt.Fprintf(connection, "ok %s\n", said)
					}
				}
			}()
		}
	}()
	return nil
}
