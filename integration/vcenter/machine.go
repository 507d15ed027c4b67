package main

import (
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"govmomi/simulator"
	"govmomi/vim25/methods"
	"govmomi/vim25/mo"
	"govmomi/vim25/soap"
	"govmomi/vim25/types"
)

// machine is the simulator's, with the calls that it lacks or answers too simply. It stands in the registries of sessions only: the
// simulator itself keeps its own type for its own use.
type machine struct {
	*simulator.VirtualMachine
}

// snapshot likewise.
type snapshot struct {
	*simulator.VirtualMachineSnapshot
}

// Get is what properties are read of.
func (m *machine) Get() mo.Reference { return m.VirtualMachine }

// Get is what properties are read of.
func (s *snapshot) Get() mo.Reference { return s.VirtualMachineSnapshot }

// extend gives a session the extended objects that it has not yet, and takes those away that are gone.
func extend(ctx *simulator.Context) {
	for _, known := range ctx.Session.Registry.All("VirtualMachine") {
		if simulator.Map.Get(known.Reference()) == nil {
			ctx.Session.Registry.Remove(known.Reference())
		}
	}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm, ok := entity.(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		if _, ok := ctx.Session.Registry.Get(vm.Self).(*machine); !ok {
			ctx.Session.Registry.Put(&machine{vm})
		}
		if vm.Snapshot != nil {
			extendSnapshots(ctx, vm.Snapshot.RootSnapshotList)
		}
	}
}

func extendSnapshots(ctx *simulator.Context, trees []types.VirtualMachineSnapshotTree) {
	for _, tree := range trees {
		known, ok := simulator.Map.Get(tree.Snapshot).(*simulator.VirtualMachineSnapshot)
		if ok {
			if _, ok := ctx.Session.Registry.Get(known.Self).(*snapshot); !ok {
				ctx.Session.Registry.Put(&snapshot{known})
			}
		}
		extendSnapshots(ctx, tree.ChildSnapshotList)
	}
}

// copied is a backing and all that it stands on.
func copied(backing *types.VirtualDiskFlatVer2BackingInfo) *types.VirtualDiskFlatVer2BackingInfo {
	if backing == nil {
		return nil
	}
	other := *backing
	other.Parent = copied(backing.Parent)
	return &other
}

// devices is a copy whose disks and cards are their own.
func devices(of []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	var own []types.BaseVirtualDevice
	for _, device := range of {
		switch device := device.(type) {
		case *types.VirtualDisk:
			disk := *device
			if flat, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
				disk.Backing = copied(flat)
			}
			own = append(own, &disk)
		case *types.VirtualE1000:
			card := *device
			own = append(own, &card)
		case *types.VirtualVmxnet3:
			card := *device
			own = append(own, &card)
		default:
			own = append(own, device)
		}
	}
	return own
}

func update(vm *simulator.VirtualMachine, device []types.BaseVirtualDevice) {
	simulator.Map.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: device}})
}

var files int32

// CreateSnapshotTask leaves the disks as a snapshot does: "the virtual machine's current state is written to delta disks from then on".
func (m *machine) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	if fault := faults.take("CreateSnapshot_Task", m.Self); fault != nil {
		return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: *fault}}
	}
	again := func() types.ManagedObjectReference {
		return m.CreateSnapshotTask(ctx, req).(*methods.CreateSnapshot_TaskBody).Res.Returnval
	}
	if task, fault := delayed("CreateSnapshot_Task", m.VirtualMachine, again); fault != nil {
		return &methods.CreateSnapshot_TaskBody{Fault_: simulator.Fault("", fault)}
	} else if task != nil {
		return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: *task}}
	}
	before := devices(m.Config.Hardware.Device)
	body := m.VirtualMachine.CreateSnapshotTask(req).(*methods.CreateSnapshot_TaskBody)
	task := body.Res.Returnval
	if made, ok := result(task).(types.ManagedObjectReference); ok {
		kept := simulator.Map.Get(made).(*simulator.VirtualMachineSnapshot)
		config := *m.Config
		config.Hardware.Device = before
		kept.Config = config
		after := devices(m.Config.Hardware.Device)
		for _, device := range after {
			disk, ok := device.(*types.VirtualDisk)
			if !ok {
				continue
			}
			flat := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			child := *flat
			child.Parent = flat
			base := strings.TrimSuffix(path.Base(flat.FileName), ".vmdk")
			child.FileName = fmt.Sprintf("%s/%s-%06d.vmdk", path.Dir(flat.FileName), base, atomic.AddInt32(&files, 1))
			disk.Backing = &child
		}
		update(m.VirtualMachine, after)
		extend(ctx)
		follow(m.Self, "snapshot", made.Value)
	}
	hold("CreateSnapshot_Task", task)
	return body
}

// RevertToSnapshotTask brings devices and name of the moment back; "if the snapshot was taken without memory, the virtual machine is
// powered off".
func (s *snapshot) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	if fault := faults.take("RevertToSnapshot_Task", s.Self); fault != nil {
		return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: *fault}}
	}
	body := s.VirtualMachineSnapshot.RevertToSnapshotTask(req).(*methods.RevertToSnapshot_TaskBody)
	vm := simulator.Map.Get(s.Vm).(*simulator.VirtualMachine)
	update(vm, devices(s.Config.Hardware.Device))
	simulator.Map.Update(vm, []types.PropertyChange{
		{Name: "runtime.powerState", Val: types.VirtualMachinePowerStatePoweredOff},
		{Name: "summary.runtime.powerState", Val: types.VirtualMachinePowerStatePoweredOff},
	})
	follow(s.Vm, "revert", s.Self.Value)
	hold("RevertToSnapshot_Task", body.Res.Returnval)
	return body
}

// RemoveSnapshotTask folds the machine's own disks when its last snapshot goes ("consolidate: if true, the virtual disks of the
// deleted snapshot will be merged with other disks if possible").
func (s *snapshot) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	if fault := faults.take("RemoveSnapshot_Task", s.Self); fault != nil {
		return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: *fault}}
	}
	vm := simulator.Map.Get(s.Vm).(*simulator.VirtualMachine)
	again := func() types.ManagedObjectReference {
		return s.RemoveSnapshotTask(ctx, req).(*methods.RemoveSnapshot_TaskBody).Res.Returnval
	}
	if task, fault := delayed("RemoveSnapshot_Task", vm, again); fault != nil {
		return &methods.RemoveSnapshot_TaskBody{Fault_: simulator.Fault("", fault)}
	} else if task != nil {
		return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: *task}}
	}
	for _, root := range vm.Snapshot.RootSnapshotList {
		// The simulator does not survive that the current one has no parent.
		if root.Snapshot == s.Self && vm.Snapshot.CurrentSnapshot != nil && *vm.Snapshot.CurrentSnapshot == s.Self {
			vm.Snapshot.CurrentSnapshot = nil
		}
	}
	body := s.VirtualMachineSnapshot.RemoveSnapshotTask(ctx, req).(*methods.RemoveSnapshot_TaskBody)
	ctx.Session.Registry.Remove(s.Self)
	if vm.Snapshot == nil {
		after := devices(vm.Config.Hardware.Device)
		for _, device := range after {
			disk, ok := device.(*types.VirtualDisk)
			if !ok {
				continue
			}
			flat := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			for flat.Parent != nil && path.Dir(flat.Parent.FileName) == path.Dir(flat.FileName) {
				flat = flat.Parent
			}
			disk.Backing = flat
		}
		update(vm, after)
	}
	follow(s.Vm, "remove", s.Self.Value)
	hold("RemoveSnapshot_Task", body.Res.Returnval)
	return body
}

// CloneVMTask clones from the state of the snapshot. diskMoveType createNewChildDiskBacking: "All of the disk's backings but its child
// most will be shared: a new child disk backing will be created on the destination datastore". Cards without a hardware address get
// one of their own.
func (m *machine) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) soap.HasFault {
	if fault := faults.take("CloneVM_Task", m.Self); fault != nil {
		return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: *fault}}
	}
	kept := m.Config.Hardware.Device
	from := devices(kept)
	if req.Spec.Snapshot != nil {
		if of, ok := simulator.Map.Get(*req.Spec.Snapshot).(*simulator.VirtualMachineSnapshot); ok {
			from = devices(of.Config.Hardware.Device)
		}
	}
	parents := map[int32]*types.VirtualDiskFlatVer2BackingInfo{}
	for _, device := range from {
		if disk, ok := device.(*types.VirtualDisk); ok {
			parents[disk.Key] = copied(disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo))
		}
	}
	// The simulator takes the devices of the machine itself, and changes them: it gets a copy.
	m.Config.Hardware.Device = from
	body := m.VirtualMachine.CloneVMTask(ctx, req).(*methods.CloneVM_TaskBody)
	m.Config.Hardware.Device = kept
	if made, ok := result(body.Res.Returnval).(types.ManagedObjectReference); ok {
		clone := simulator.Map.Get(made).(*simulator.VirtualMachine)
		if req.Spec.Location.DiskMoveType == string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking) {
			after := devices(clone.Config.Hardware.Device)
			for _, device := range after {
				if disk, ok := device.(*types.VirtualDisk); ok {
					disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Parent = parents[disk.Key]
				}
			}
			update(clone, after)
		}
		if in := behindOf(m.Self); in != nil && req.Spec.Snapshot != nil {
			stand(made, in)
			tools(clone, false)
			follow(m.Self, "clone", req.Spec.Snapshot.Value, made.Value)
		}
		extend(ctx)
	}
	hold("CloneVM_Task", body.Res.Returnval)
	return body
}

// PromoteDisksTask: "If this is set to true and the disk backing is a child disk backing, then the disk will be unlinked ... so that
// there is only one disk backing". Without a list of disks all of them.
func (m *machine) PromoteDisksTask(ctx *simulator.Context, req *types.PromoteDisks_Task) soap.HasFault {
	if fault := faults.take("PromoteDisks_Task", m.Self); fault != nil {
		return &methods.PromoteDisks_TaskBody{Res: &types.PromoteDisks_TaskResponse{Returnval: *fault}}
	}
	task := simulator.CreateTask(m.VirtualMachine, "promoteDisks", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if m.Snapshot != nil {
			return nil, new(types.InvalidState)
		}
		after := devices(m.Config.Hardware.Device)
		for _, device := range after {
			if disk, ok := device.(*types.VirtualDisk); ok && req.Unlink {
				disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Parent = nil
			}
		}
		update(m.VirtualMachine, after)
		return nil, nil
	})
	body := &methods.PromoteDisks_TaskBody{Res: &types.PromoteDisks_TaskResponse{Returnval: task.Run()}}
	hold("PromoteDisks_Task", body.Res.Returnval)
	return body
}

// ConsolidateVMDisksTask: "consolidate any redundant disk files"; afterwards runtime.consolidationNeeded is false.
func (m *machine) ConsolidateVMDisksTask(ctx *simulator.Context, req *types.ConsolidateVMDisks_Task) soap.HasFault {
	task := simulator.CreateTask(m.VirtualMachine, "consolidate", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		simulator.Map.Update(m.VirtualMachine, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: types.NewBool(false)}})
		return nil, nil
	})
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: task.Run()}}
}

// ReconfigVMTask: "If the key is already present, it will be reset with the new value provided. Otherwise, a new option is added. Keys
// with empty values will be removed" (VirtualMachineConfigSpec.extraConfig).
func (m *machine) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	if fault := faults.take("ReconfigVM_Task", m.Self); fault != nil {
		return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: *fault}}
	}
	asked := req.Spec.ExtraConfig
	req.Spec.ExtraConfig = nil
	body := m.VirtualMachine.ReconfigVMTask(ctx, req).(*methods.ReconfigVM_TaskBody)
	options := m.Config.ExtraConfig
	for _, option := range asked {
		var others []types.BaseOptionValue
		for _, known := range options {
			if known.GetOptionValue().Key != option.GetOptionValue().Key {
				others = append(others, known)
			}
		}
		options = others
		if option.GetOptionValue().Value != "" {
			options = append(options, option)
		}
	}
	simulator.Map.Update(m.VirtualMachine, []types.PropertyChange{{Name: "config.extraConfig", Val: options}})
	if len(req.Spec.DeviceChange) > 0 && m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		follow(m.Self, append([]string{"cards"}, cards(m.VirtualMachine)...)...)
	}
	hold("ReconfigVM_Task", body.Res.Returnval)
	return body
}

// plug sets whether cards are connected: "startConnected: whether or not to connect the device when the virtual machine starts".
func plug(vm *simulator.VirtualMachine, on bool) {
	after := devices(vm.Config.Hardware.Device)
	for _, device := range after {
		card, ok := device.(types.BaseVirtualEthernetCard)
		if !ok || card.GetVirtualEthernetCard().Connectable == nil {
			continue
		}
		state := *card.GetVirtualEthernetCard().Connectable
		state.Connected = on && state.StartConnected
		card.GetVirtualEthernetCard().Connectable = &state
	}
	update(vm, after)
}

// PowerOnVMTask plugs cards in, can fail and be held up; it is the simulator's otherwise.
func (m *machine) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	if fault := faults.take("PowerOnVM_Task", m.Self); fault != nil {
		return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: *fault}}
	}
	again := func() types.ManagedObjectReference {
		return m.PowerOnVMTask(ctx, req).(*methods.PowerOnVM_TaskBody).Res.Returnval
	}
	if task, fault := delayed("PowerOnVM_Task", m.VirtualMachine, again); fault != nil {
		return &methods.PowerOnVM_TaskBody{Fault_: simulator.Fault("", fault)}
	} else if task != nil {
		return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: *task}}
	}
	body := m.VirtualMachine.PowerOnVMTask(ctx, req).(*methods.PowerOnVM_TaskBody)
	plug(m.VirtualMachine, true)
	if behindOf(m.Self) != nil {
		follow(m.Self, append([]string{"on"}, cards(m.VirtualMachine)...)...)
		tools(m.VirtualMachine, true)
	}
	hold("PowerOnVM_Task", body.Res.Returnval)
	return body
}

// PowerOffVMTask ends what stands behind it, too.
func (m *machine) PowerOffVMTask(ctx *simulator.Context, req *types.PowerOffVM_Task) soap.HasFault {
	if fault := faults.take("PowerOffVM_Task", m.Self); fault != nil {
		return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: *fault}}
	}
	body := m.VirtualMachine.PowerOffVMTask(ctx, req)
	m.isOff()
	return body
}

// ShutdownGuest: "issues a command to the guest operating system asking it to perform a clean shutdown of all services. Returns
// immediately".
func (m *machine) ShutdownGuest(ctx *simulator.Context, req *types.ShutdownGuest) soap.HasFault {
	body := m.VirtualMachine.ShutdownGuest(ctx, req)
	if body.Fault() == nil {
		m.isOff()
	}
	return body
}

func (m *machine) isOff() {
	plug(m.VirtualMachine, false)
	if behindOf(m.Self) != nil {
		follow(m.Self, "off")
		tools(m.VirtualMachine, false)
	}
}

// DestroyTask removes what stands behind it, too.
func (m *machine) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	if fault := faults.take("Destroy_Task", m.Self); fault != nil {
		return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: *fault}}
	}
	body := m.VirtualMachine.DestroyTask(ctx, req)
	follow(m.Self, "destroy")
	return body
}

func result(task types.ManagedObjectReference) types.AnyType {
	return simulator.Map.Get(task).(*simulator.Task).Info.Result
}

// hold makes a task that has ended look as if it ran on for as long as the lab said.
func hold(method string, reference types.ManagedObjectReference) {
	length := faults.held(method)
	if length == 0 {
		return
	}
	task := simulator.Map.Get(reference).(*simulator.Task)
	if vm, ok := simulator.Map.Get(*task.Info.Entity).(*simulator.VirtualMachine); ok {
		works(vm, task.Self)
	}
	state, result, failed := task.Info.State, task.Info.Result, task.Info.Error
	simulator.Map.Update(task, []types.PropertyChange{
		{Name: "info.state", Val: types.TaskInfoStateRunning},
		{Name: "info.result", Val: nil},
		{Name: "info.error", Val: nil},
		{Name: "info.progress", Val: int32(40)},
	})
	go func() {
		time.Sleep(length)
		changes := []types.PropertyChange{{Name: "info.state", Val: state}}
		if result != nil {
			changes = append(changes, types.PropertyChange{Name: "info.result", Val: result})
		}
		if failed != nil {
			changes = append(changes, types.PropertyChange{Name: "info.error", Val: *failed})
		}
		simulator.Map.Update(task, changes)
	}()
}
