//! Every kind of step there is, as data: the `kind` word and the parameters of each.

use serde::{Deserialize, Serialize};

use super::{
    Step, adopt, block, carry, container, detached, domain, fence, files, fsck, hook, jail, left, machine, net, queues,
    reduce, server, services, storage, transfer, upgrade, verify, visible, world,
};

macro_rules! actions {
    ($($kind:literal $variant:ident($type:ty)),+ $(,)?) => {
        /// What a step does: a kind and its parameters.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        #[expect(missing_docs, reason = "each kind is described where its type is")]
        pub enum Action {
            $(#[serde(rename = $kind)] $variant($type)),+
        }

        impl Action {
            /// The word for its kind.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind),+ }
            }
            /// How it is probed, applied and undone.
            pub fn step(&self) -> &dyn Step {
                match self { $(Self::$variant(step) => step),+ }
            }
        }

        $(impl From<$type> for Action {
            fn from(step: $type) -> Self { Self::$variant(step) }
        })+
    };
}

actions! {
    "storage.snapshot" Snapshot(storage::Snapshot),
    "storage.remove" RemoveVolumes(storage::RemoveVolumes),
    "storage.rename" RenameVolume(storage::RenameVolume),
    "storage.mark" MarkVolume(storage::MarkVolume),
    "swap.fresh" FreshSwap(block::FreshSwap),
    "storage.secure" Secure(block::Secure),
    "storage.closed" ProveClosed(block::ProveClosed),
    "storage.merge" Merge(block::Merge),
    "storage.visible" Visible(visible::Visible),
    "storage.drained" Drained(block::Drained),
    "storage.restore" RestoreDetached(detached::RestoreDetached),
    "guest.define" Define(domain::Define),
    "guest.undefine" Undefine(domain::Undefine),
    "guest.start" Start(domain::Start),
    "guest.stop" Stop(domain::Stop),
    "guest.autostart" Autostart(domain::Autostart),
    "files.rewrite" Rewrite(files::Rewrite),
    "files.restore" Restore(files::Restore),
    "files.relink" Relink(adopt::Relink),
    "files.restamp" Restamp(adopt::Restamp),
    "fsck.disarm" DisarmFsck(fsck::Disarm),
    "fsck.rearm" RearmFsck(fsck::Rearm),
    "queues.set_aside" SetAside(queues::SetAside),
    "queues.mirror" Mirror(queues::Mirror),
    "queues.return" Return(queues::Return),
    "queues.discard" Discard(queues::Discard),
    "storage.replayed" Replayed(left::Replayed),
    "carry.rsync" Carry(carry::Carry),
    "transfer.filesystems" Transfer(transfer::Transfer),
    "net.prove_silent" ProveSilent(net::ProveSilent),
    "net.announce" Announce(net::Announce),
    "net.learn_address" LearnAddress(net::LearnAddress),
    "services.start" StartWhileVerifying(services::StartWhileVerifying),
    "services.fence" FenceOutgoing(fence::FenceOutgoing),
    "services.prove_fence" ProveFenced(fence::ProveFenced),
    "verify.baseline" TakeBaseline(verify::TakeBaseline),
    "verify.checks" RunChecks(verify::RunChecks),
    "debian.sources" DebianSources(upgrade::DebianSources),
    "debian.update" DebianUpdate(upgrade::DebianUpdate),
    "debian.upgrade" DebianUpgrade(upgrade::DebianUpgrade),
    "debian.configure" DebianConfigure(upgrade::DebianConfigure),
    "debian.clean" DebianClean(upgrade::DebianClean),
    "conffiles.collect" CollectConffiles(upgrade::CollectConffiles),
    "script.run" Script(upgrade::Script),
    "yum.update" YumUpdate(upgrade::YumUpdate),
    "yum.exclude" LiftExclude(upgrade::LiftExclude),
    "kernel.initramfs" ProveInitramfs(upgrade::ProveInitramfs),
    "kernel.boot_once" BootOnce(upgrade::BootOnce),
    "kernel.default" MakeDefault(upgrade::MakeDefault),
    "kernel.prove" ProveKernel(upgrade::ProveKernel),
    "tools.hook" ToolsHook(upgrade::ToolsHook),
    "tools.applied" ToolsApplied(upgrade::ToolsApplied),
    "world.build" BuildWorld(world::BuildWorld),
    "world.flags" ClearFlags(world::ClearFlags),
    "world.etc_tree" EtcTree(world::EtcTree),
    "world.etc_base" EtcBase(world::EtcBase),
    "world.etcupdate" EtcUpdate(world::EtcUpdate),
    "world.install" InstallWorld(world::InstallWorld),
    "world.mergemaster" MergeMaster(world::MergeMaster),
    "world.rcd" ReplaceRcd(world::ReplaceRcd),
    "world.freebsd_update" FreebsdUpdate(world::FreebsdUpdate),
    "world.delete_old" DeleteOld(world::DeleteOld),
    "world.delete_old_libs" DeleteOldLibs(world::DeleteOldLibs),
    "world.fetch" FetchPackages(world::FetchPackages),
    "world.packages" Packages(world::Packages),
    "world.undecided" CollectUndecided(world::CollectUndecided),
    "guest.reboot" Reboot(upgrade::Reboot),
    "guest.forget" Forget(upgrade::Forget),
    "guest.settle" Settle(upgrade::Settle),
    "jail.prune" Prune(reduce::Prune),
    "jail.reduce" Reduce(reduce::Reduce),
    "jail.identity" Identity(reduce::Identity),
    "jail.tree" MakeTree(jail::MakeTree),
    "jail.keep" KeepTree(jail::KeepTree),
    "jail.carry" CarryBetween(jail::between::CarryBetween),
    "jail.queues" QueuesBetween(jail::between::QueuesBetween),
    "jail.unused" ProveUnused(jail::between::ProveUnused),
    "container.tree" MakeRoot(container::MakeRoot),
    "container.whole" WholeRoot(container::WholeRoot),
    "container.reduce" Contain(container::Contain),
    "container.keep" KeepRoot(container::KeepRoot),
    "server.services" StopServices(server::StopServices),
    "server.carry" CarryOver(server::CarryOver),
    "server.queues" MirrorQueues(server::MirrorQueues),
    "server.park" Park(server::Park),
    "server.quiet" ProveQuiet(server::ProveQuiet),
    "machine.snapshot" SnapshotMachine(machine::SnapshotMachine),
    "machine.revert" RevertMachine(machine::RevertMachine),
    "machine.remove_snapshot" RemoveSnapshot(machine::RemoveSnapshot),
    "machine.clone" CloneMachine(machine::linked::CloneMachine),
    "machine.on" StartMachine(machine::linked::StartMachine),
    "machine.off" StopMachine(machine::linked::StopMachine),
    "machine.cards" SetCards(machine::cards::SetCards),
    "machine.name" NameMachine(machine::cards::NameMachine),
    "machine.quiet" MachineQuiet(machine::linked::MachineQuiet),
    "machine.own_disks" OwnDisks(machine::linked::OwnDisks),
    "machine.remove" RemoveMachine(machine::linked::RemoveMachine),
    "machine.empty_queues" EmptyQueues(machine::across::EmptyQueues),
    "machine.services" StopInside(machine::across::StopInside),
    "machine.queues" CarryQueues(machine::queues::CarryQueues),
    "machine.return_queues" ReturnQueues(machine::queues::ReturnQueues),
    "machine.fetch_queues" FetchQueues(machine::queues::FetchQueues),
    "machine.carry" CarryAcross(machine::across::CarryAcross),
    "machine.rewrite" RewriteInside(machine::inside::RewriteInside),
    "machine.identity" RestoreInside(machine::inside::RestoreInside),
    "hook" Hook(hook::Hook),
}
