//! libvirt's library, loaded when a libvirt host is first used.
//!
//! Linked in the ordinary way, `libvirt.so` brings forty libraries with it, and every invocation waits for them (some
//! 20 ms), `status` of a jail host included. So the functions that the `virt` crate calls are defined here, each a jump to
//! the real one, which [`load`] finds in the library. The linker is told `-lvirt` by `virt-sys`, but with `--as-needed`
//! (Rust's default on Linux) it takes no library that nothing refers to. A function of libvirt that is used and
//! missing here still works: the library is then linked as ever, and the test `the_library_is_loaded_late` fails.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use virt::sys::{virConnectPtr, virDomainPtr, virErrorFunc, virErrorPtr, virNetworkPtr};

/// The library's file name: its ABI has been 0 since 2005.
const LIBRARY: &str = "libvirt.so.0";

/// Loads libvirt's library. Has to come before any call of the `virt` crate; repeating it costs nothing.
///
/// # Errors
/// The dynamic linker's words, if the library is not installed or too old.
pub(super) fn load() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(|| find_all().map_err(|error| error.to_string())).clone()
}

macro_rules! late {
    ($($name:ident($($arg:ident: $kind:ty),*) $(-> $answer:ty)?;)*) => {
        /// Where the real functions are; null before [`load`].
        #[expect(non_upper_case_globals, reason = "named as the functions they lead to")]
        mod real {
            use super::{AtomicPtr, c_void};
            $(pub(super) static $name: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());)*
        }

        fn find_all() -> Result<(), libloading::Error> {
            // SAFETY: libvirt's own initialization; it is the same that linking runs before `main`.
            let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL)? };
            $(
                // SAFETY: looked up as an address only; its type is given to it below.
                let address = unsafe { library.get::<*mut c_void>(concat!(stringify!($name), "\0").as_bytes())? };
                real::$name.store(*address, Ordering::Release);
            )*
            // It stays: handles and threads of its own live in it.
            std::mem::forget(library);
            Ok(())
        }

        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $kind),*) $(-> $answer)? {
                // The same signature as virt-sys declares.
                let _: unsafe extern "C" fn($($kind),*) $(-> $answer)? = virt::sys::$name;
                let address = real::$name.load(Ordering::Acquire);
                assert!(!address.is_null(), concat!(stringify!($name), " before libvirt was loaded"));
                // SAFETY: the address of libvirt's function of this name, whose signature libvirt keeps.
                let function: unsafe extern "C" fn($($kind),*) $(-> $answer)? =
                    unsafe { std::mem::transmute(address) };
                // SAFETY: the caller's promise for the function of this name.
                unsafe { function($($arg),*) }
            }
        )*
    };
}

late! {
    virConnectClose(conn: virConnectPtr) -> c_int;
    virConnectGetHostname(conn: virConnectPtr) -> *mut c_char;
    virConnectIsAlive(conn: virConnectPtr) -> c_int;
    virConnectListAllDomains(conn: virConnectPtr, domains: *mut *mut virDomainPtr, flags: c_uint) -> c_int;
    virConnectOpen(name: *const c_char) -> virConnectPtr;
    virConnectRef(conn: virConnectPtr) -> c_int;
    virDomainCreate(domain: virDomainPtr) -> c_int;
    virDomainDefineXML(conn: virConnectPtr, xml: *const c_char) -> virDomainPtr;
    virDomainDestroy(domain: virDomainPtr) -> c_int;
    virDomainFree(domain: virDomainPtr) -> c_int;
    virDomainGetAutostart(domain: virDomainPtr, autostart: *mut c_int) -> c_int;
    virDomainGetState(domain: virDomainPtr, state: *mut c_int, reason: *mut c_int, flags: c_uint) -> c_int;
    virDomainGetUUIDString(domain: virDomainPtr, text: *mut c_char) -> c_int;
    virDomainGetXMLDesc(domain: virDomainPtr, flags: c_uint) -> *mut c_char;
    virDomainHasManagedSaveImage(domain: virDomainPtr, flags: c_uint) -> c_int;
    virDomainIsActive(domain: virDomainPtr) -> c_int;
    virDomainLookupByName(conn: virConnectPtr, name: *const c_char) -> virDomainPtr;
    virDomainPMWakeup(domain: virDomainPtr, flags: c_uint) -> c_int;
    virDomainResume(domain: virDomainPtr) -> c_int;
    virDomainSetAutostart(domain: virDomainPtr, autostart: c_int) -> c_int;
    virDomainShutdown(domain: virDomainPtr) -> c_int;
    virDomainSuspend(domain: virDomainPtr) -> c_int;
    virDomainUndefine(domain: virDomainPtr) -> c_int;
    virDomainUndefineFlags(domain: virDomainPtr, flags: c_uint) -> c_int;
    virGetLastError() -> virErrorPtr;
    virNetworkFree(network: virNetworkPtr) -> c_int;
    virNetworkGetBridgeName(network: virNetworkPtr) -> *mut c_char;
    virNetworkLookupByName(conn: virConnectPtr, name: *const c_char) -> virNetworkPtr;
    virNodeGetFreeMemory(conn: virConnectPtr) -> c_ulonglong;
    virSetErrorFunc(data: *mut c_void, handler: virErrorFunc);
}
