package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"govmomi/simulator"
	"govmomi/vim25/methods"
	"govmomi/vim25/mo"
	"govmomi/vim25/soap"
	"govmomi/vim25/types"
)

// Guest operations. The packaged simulator has none that start a program; these enter whatever the lab put behind a machine (a guest
// of the native lab, by ssh). Those of the calls that upgradectl makes, by the API Reference's GuestProcessManager and GuestFileManager.

// guest is what stands behind a machine.
type guest struct {
	user, password string
	// enter gets one more word: a line for a shell in the guest.
	enter []string
}

type process struct {
	info    types.GuestProcessInfo
	command *exec.Cmd
}

var guests = struct {
	sync.Mutex
	of        map[types.ManagedObjectReference]*guest
	processes map[int64]*process
	next      int64
}{of: map[types.ManagedObjectReference]*guest{}, processes: map[int64]*process{}, next: 1000}

const guestPath = "/labguest"

func guestOperations(content types.ServiceContent) {
	manager := simulator.Map.Get(*content.GuestOperationsManager).(*simulator.GuestOperationsManager)
	files, processes := &fileManager{}, &processManager{}
	files.Self, processes.Self = *manager.FileManager, *manager.ProcessManager
	simulator.Map.Put(files)
	simulator.Map.Put(processes)
}

// inside is the guest of a machine, if this login may enter it now: "GuestOperationsUnavailable: the guest operations agent cannot be
// contacted", "InvalidGuestLogin: the the guest authentication information was not accepted", "InvalidPowerState: the VM is not
// powered on".
func inside(vm types.ManagedObjectReference, auth types.BaseGuestAuthentication) (*guest, types.BaseMethodFault) {
	if faults.forgotten() {
		return nil, new(types.NotAuthenticated)
	}
	machine, ok := simulator.Map.Get(vm).(*simulator.VirtualMachine)
	if !ok {
		return nil, &types.ManagedObjectNotFound{Obj: vm}
	}
	if machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return nil, &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: machine.Runtime.PowerState,
		}
	}
	guests.Lock()
	found := guests.of[vm]
	guests.Unlock()
	if found == nil || machine.Guest.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return nil, new(types.GuestOperationsUnavailable)
	}
	named, ok := auth.(*types.NamePasswordAuthentication)
	if !ok || named.Username != found.user || named.Password != found.password {
		return nil, new(types.InvalidGuestLogin)
	}
	return found, nil
}

func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func (g *guest) command(line string) *exec.Cmd {
	words := append(append([]string{}, g.enter...), line)
	return exec.Command(words[0], words[1:]...)
}

func (g *guest) sh(line string) (string, types.BaseMethodFault) {
	output, err := g.command(line).Output()
	if err != nil {
		return "", new(types.GuestOperationsFault)
	}
	return strings.TrimSpace(string(output)), nil
}

type processManager struct {
	mo.GuestProcessManager
}

// StartProgramInGuest: "In Linux and Solaris, the arguments will be passed to a guest shell"; returns the pid at once.
func (m *processManager) StartProgramInGuest(ctx *simulator.Context, req *types.StartProgramInGuest) soap.HasFault {
	body := new(methods.StartProgramInGuestBody)
	found, fault := inside(req.Vm, req.Auth)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	spec := req.Spec.(*types.GuestProgramSpec)
	command := found.command(quote(spec.ProgramPath) + " " + spec.Arguments)
	if err := command.Start(); err != nil {
		body.Fault_ = simulator.Fault(err.Error(), new(types.GuestOperationsUnavailable))
		return body
	}
	guests.Lock()
	guests.next++
	pid := guests.next
	started := &process{command: command, info: types.GuestProcessInfo{
		Name: spec.ProgramPath, Pid: pid, Owner: found.user, CmdLine: spec.ProgramPath + " " + spec.Arguments, StartTime: time.Now(),
	}}
	guests.processes[pid] = started
	guests.Unlock()
	go func() {
		_ = command.Wait()
		guests.Lock()
		defer guests.Unlock()
		ended := time.Now()
		started.info.EndTime, started.info.ExitCode = &ended, int32(command.ProcessState.ExitCode())
	}()
	body.Res = &types.StartProgramInGuestResponse{Returnval: pid}
	return body
}

// ListProcessesInGuest: "If a process was started using StartProgramInGuest then the process completion time and exit code will be
// available if queried within 5 minutes after it completes."
func (m *processManager) ListProcessesInGuest(ctx *simulator.Context, req *types.ListProcessesInGuest) soap.HasFault {
	body := new(methods.ListProcessesInGuestBody)
	if _, fault := inside(req.Vm, req.Auth); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	guests.Lock()
	defer guests.Unlock()
	body.Res = new(types.ListProcessesInGuestResponse)
	for _, pid := range req.Pids {
		if known, ok := guests.processes[pid]; ok {
			body.Res.Returnval = append(body.Res.Returnval, known.info)
		}
	}
	return body
}

// TerminateProcessInGuest ends it.
func (m *processManager) TerminateProcessInGuest(ctx *simulator.Context, req *types.TerminateProcessInGuest) soap.HasFault {
	body := new(methods.TerminateProcessInGuestBody)
	if _, fault := inside(req.Vm, req.Auth); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	guests.Lock()
	defer guests.Unlock()
	if known, ok := guests.processes[req.Pid]; ok {
		_ = known.command.Process.Signal(syscall.SIGTERM)
	}
	body.Res = new(types.TerminateProcessInGuestResponse)
	return body
}

type fileManager struct {
	mo.GuestFileManager
}

// CreateTemporaryDirectoryInGuest: "creates a new unique temporary directory for the user to use as needed ... the name is made of
// prefix, random characters, suffix".
func (m *fileManager) CreateTemporaryDirectoryInGuest(ctx *simulator.Context, req *types.CreateTemporaryDirectoryInGuest) soap.HasFault {
	body := new(methods.CreateTemporaryDirectoryInGuestBody)
	found, fault := inside(req.Vm, req.Auth)
	var made string
	if fault == nil {
		made, fault = found.sh("mktemp -d " + quote("/tmp/"+req.Prefix+"XXXXXXXX"+req.Suffix))
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.CreateTemporaryDirectoryInGuestResponse{Returnval: made}
	return body
}

// DeleteDirectoryInGuest removes it, with what is in it if recursive.
func (m *fileManager) DeleteDirectoryInGuest(ctx *simulator.Context, req *types.DeleteDirectoryInGuest) soap.HasFault {
	body := new(methods.DeleteDirectoryInGuestBody)
	found, fault := inside(req.Vm, req.Auth)
	if fault == nil {
		how := "rmdir -- "
		if req.Recursive {
			how = "rm -r -- "
		}
		_, fault = found.sh(how + quote(req.DirectoryPath))
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = new(types.DeleteDirectoryInGuestResponse)
	return body
}

// transfer is an address "for the user to HTTP PUT/GET the content"; `*` stands for the host that the client talks to.
func transfer(ctx *simulator.Context, vm types.ManagedObjectReference, path string, mode int64) string {
	query := url.Values{
		"vm": {vm.Value}, "path": {path}, "mode": {strconv.FormatInt(mode, 8)}, "token": {ctx.Session.Key},
	}
	return "https://*" + guestPath + "?" + query.Encode()
}

// InitiateFileTransferToGuest: the file is written by a PUT to the address.
func (m *fileManager) InitiateFileTransferToGuest(ctx *simulator.Context, req *types.InitiateFileTransferToGuest) soap.HasFault {
	body := new(methods.InitiateFileTransferToGuestBody)
	if _, fault := inside(req.Vm, req.Auth); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	mode := int64(0644)
	if posix, ok := req.FileAttributes.(*types.GuestPosixFileAttributes); ok && posix.Permissions != 0 {
		mode = posix.Permissions
	}
	body.Res = &types.InitiateFileTransferToGuestResponse{Returnval: transfer(ctx, req.Vm, req.GuestFilePath, mode)}
	return body
}

// InitiateFileTransferFromGuest: "FileNotFound: if the file is not found"; otherwise its size and an address to GET it from.
func (m *fileManager) InitiateFileTransferFromGuest(ctx *simulator.Context, req *types.InitiateFileTransferFromGuest) soap.HasFault {
	body := new(methods.InitiateFileTransferFromGuestBody)
	found, fault := inside(req.Vm, req.Auth)
	if fault == nil {
		size, failed := found.sh("wc -c < " + quote(req.GuestFilePath))
		length, err := strconv.ParseInt(size, 10, 64)
		if failed != nil || err != nil {
			fault = &types.FileNotFound{FileFault: types.FileFault{File: req.GuestFilePath}}
		} else {
			body.Res = &types.InitiateFileTransferFromGuestResponse{Returnval: types.FileTransferInformation{
				Attributes: new(types.GuestPosixFileAttributes), Size: length, Url: transfer(ctx, req.Vm, req.GuestFilePath, 0),
			}}
		}
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
	}
	return body
}

func serveGuest(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	guests.Lock()
	found := guests.of[types.ManagedObjectReference{Type: "VirtualMachine", Value: query.Get("vm")}]
	guests.Unlock()
	if found == nil || query.Get("token") == "" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	path := quote(query.Get("path"))
	switch r.Method {
	case http.MethodPut:
		command := found.command(fmt.Sprintf("umask 077; cat > %s && chmod %s %s", path, query.Get("mode"), path))
		command.Stdin = r.Body
		if err := command.Run(); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	case http.MethodGet:
		output, err := found.command("cat " + path).Output()
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.Copy(w, bytes.NewReader(output))
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}
