//! What goes on inside a simulated guest: upgrades, detached jobs, services that talk.

use super::*;

fn to_trixie(sim: &Sim) {
    let sources = sim.volumes().join("mercure/etc/apt/sources.list");
    fs::write(sources, "deb http://mirror.example/debian trixie main\n").unwrap();
}

#[tokio::test]
async fn an_upgrade_goes_to_the_release_of_the_sources() {
    let (_dir, sim) = world();
    let guest = inside(&sim);
    assert!(run(&guest, "apt-get -y upgrade").await.text().contains("0 upgraded"));
    to_trixie(&sim);
    assert!(run(&guest, "apt-get -y full-upgrade").await.text().contains("0 upgraded"), "update comes first");
    assert_eq!(run(&guest, "apt-get update").await.status, 0);
    assert!(run(&guest, "apt-get -s full-upgrade").await.text().contains("Inst postfix [3.7.11-0+deb12]"));
    let used = async || {
        let storage = sim.storage(VolumeKind::Sim).unwrap();
        storage.inspect(&sim.volume_ref("mercure")).await.unwrap().unwrap().used_bytes.unwrap()
    };
    let before = used().await;
    assert_eq!(run(&guest, "apt-get -y -o Dpkg::Use-Pty=0 upgrade --without-new-pkgs").await.status, 0);
    assert_eq!(run(&guest, "dpkg-query -W -f=${Version} libc6").await.text(), "2.36-9+deb12", "kept back");
    let full = run(&guest, "apt-get -y -o APT::Status-Fd=3 full-upgrade").await;
    assert!(full.text().contains("pmstatus:libc6:"), "{}", full.text());
    assert_eq!(run(&guest, "dpkg-query -W -f=${Version} libc6").await.text(), "2.36-9+deb13");
    assert!(run(&guest, "cat /etc/os-release").await.text().contains("VERSION_ID=\"13\""));
    assert!(used().await > before + (60 << 20), "it takes room");
    assert!(sim.volumes().join("mercure/etc/postfix/main.cf.dpkg-dist").is_file());
    assert!(run(&guest, "dpkg-query -W").await.text().contains("dovecot-core\t2.3.19.1-2+deb13"));
    sim.configure(|config| config.pool_free_bytes = 1 << 20).unwrap();
    fs::write(sim.volumes().join("mercure/etc/apt/sources.list"), "deb http://mirror.example/debian forky main\n")
        .unwrap();
    run(&guest, "apt-get update").await;
    assert_eq!(run(&guest, "apt-get -y full-upgrade").await.status, 100, "no room");
}

#[tokio::test]
async fn a_failing_package_stops_an_upgrade_until_mended() {
    let (_dir, sim) = world();
    let guest = inside(&sim);
    to_trixie(&sim);
    let failure =
        UpgradeFailure { package: "dovecot-core".into(), message: "bad config".into(), until: "/root/mended".into() };
    sim.configure(|config| config.upgrade_fails = Some(failure)).unwrap();
    run(&guest, "apt-get update").await;
    let failed = run(&guest, "apt-get -y full-upgrade").await;
    assert_eq!(failed.status, 100);
    assert!(String::from_utf8_lossy(&failed.stderr).contains("bad config"));
    assert!(run(&guest, "dpkg --audit").await.text().contains("dovecot-core"));
    assert_eq!(run(&guest, "dpkg-query -W -f=${db:Status-Abbrev} dovecot-core").await.text(), "iF ");
    assert_eq!(run(&guest, "apt-get -y full-upgrade").await.status, 100);
    assert_eq!(run(&guest, "dpkg --configure -a").await.status, 1);
    run(&guest, "touch /root/mended").await;
    assert_eq!(run(&guest, "dpkg --configure -a").await.status, 0);
    assert_eq!(run(&guest, "dpkg --audit").await.text(), "");
    assert_eq!(run(&guest, "apt-get -y full-upgrade").await.status, 0);
    assert!(!run(&guest, "dpkg-query -W").await.text().contains("+deb12"));
}

fn upgrade_job() -> Job {
    let argv = ["apt-get", "-y", "-o", "APT::Status-Fd=1", "full-upgrade"].map(str::to_owned).to_vec();
    Job { id: "k3f9-full".into(), argv, env: Vec::new() }
}

#[tokio::test]
async fn a_job_goes_on_without_anyone_looking() {
    let (_dir, sim) = world();
    to_trixie(&sim);
    run(&inside(&sim), "apt-get update").await;
    sim.configure(|config| config.job_ms = 300).unwrap();
    let guest = inside(&sim);
    assert_eq!(guest.job_status("k3f9-full").await.unwrap(), JobStatus::Absent);
    assert_eq!(guest.job_start(&upgrade_job()).await.unwrap(), Change::Created);
    assert_eq!(guest.job_start(&upgrade_job()).await.unwrap(), Change::Unchanged);
    assert!(matches!(guest.job_status("k3f9-full").await.unwrap(), JobStatus::Running { .. }));
    assert!(guest.job_forget("k3f9-full").await.is_err());
    tokio::time::sleep(Duration::from_millis(150)).await;
    let early = guest.job_output("k3f9-full", 0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Another controller finds it.
    let again = inside(&Sim::open(sim.dir()).unwrap());
    assert!(matches!(again.job_status("k3f9-full").await.unwrap(), JobStatus::Ended { status: 0, .. }));
    let all = again.job_output("k3f9-full", 0).await.unwrap();
    assert!(all.starts_with(&early) && !early.is_empty() && early.len() < all.len());
    assert_eq!(again.job_output("k3f9-full", early.len() as u64).await.unwrap(), all[early.len()..]);
    assert!(run(&again, "cat /etc/debian_version").await.text().starts_with("13"));
    assert_eq!(again.job_forget("k3f9-full").await.unwrap(), Change::Removed);
    assert_eq!(again.job_forget("k3f9-full").await.unwrap(), Change::Unchanged);
}

#[tokio::test]
async fn a_job_is_lost_when_its_guest_goes_down() {
    let (_dir, sim) = world();
    to_trixie(&sim);
    let guest = inside(&sim);
    run(&guest, "apt-get update").await;
    sim.configure(|config| config.job_ms = 60_000).unwrap();
    guest.job_start(&upgrade_job()).await.unwrap();
    sim.destroy("mercure").await.unwrap();
    assert!(guest.job_status("k3f9-full").await.unwrap_err().is_unknown());
    sim.start("mercure").await.unwrap();
    assert_eq!(guest.job_status("k3f9-full").await.unwrap(), JobStatus::Lost);
    assert_ne!(run(&guest, "dpkg --audit").await.text(), "");
    let versions = run(&guest, "dpkg-query -W").await.text();
    assert!(versions.contains("+deb12") && versions.contains("+deb13"), "half of it was done: {versions}");
    assert_eq!(run(&guest, "apt-get -y full-upgrade").await.status, 100);
    assert_eq!(run(&guest, "dpkg --configure -a").await.status, 0);
    assert_eq!(run(&guest, "apt-get -y full-upgrade").await.status, 0);
}

async fn talk(sim: &Sim, port: u16, say: &str) -> String {
    let to = std::net::SocketAddr::new(ip("10.0.5.12"), port);
    let mut stream = sim.net().connect(to, Duration::from_secs(1)).await.unwrap();
    stream.write_all(say.as_bytes()).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    heard
}

#[tokio::test]
async fn services_talk() {
    let (_dir, sim) = world();
    assert_eq!(talk(&sim, 22, "").await, "SSH-2.0-sim\r\n");
    let page = talk(&sim, 80, "GET / HTTP/1.1\r\nHost: mercure\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\n<h1>mercure</h1>\n"), "{page}");
    assert!(talk(&sim, 80, "GET /../../../etc/hostname HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.1 404"));
    assert!(talk(&sim, 80, "GET /nothing HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.1 404"));
    let pop = talk(&sim, 110, "STAT\r\nUSER probe\r\nPASS wrong\r\nUSER probe\r\nPASS probe\r\nSTAT\r\nQUIT\r\n").await;
    let answers: Vec<_> = pop.lines().collect();
    assert!(
        answers[1].starts_with("-ERR") && answers[3].starts_with("-ERR") && answers[6].starts_with("+OK 3 "),
        "{pop}"
    );
    let mail = "EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<probe@mercure>\r\nRCPT TO:<../../etc@x>\r\nDATA\r\nhello\r\n..dot\r\n.\r\nQUIT\r\n";
    assert!(talk(&sim, 25, mail).await.contains("250 2.0.0 Ok: queued"));
    let imap = talk(
        &sim,
        143,
        "a STATUS INBOX (MESSAGES)\r\nb LOGIN probe \"probe\"\r\nc STATUS INBOX (MESSAGES)\r\nd LOGOUT\r\n",
    )
    .await;
    assert!(imap.contains("a BAD") && imap.contains("(MESSAGES 4)"), "{imap}");
    assert_eq!(fs::read_dir(sim.volumes().join("mercure/var/spool/postfix/incoming")).unwrap().count(), 1);
    run(&inside(&sim), "systemctl stop nginx").await;
    let at = |text: &str| text.parse().unwrap();
    let error = sim.net().connect(at("10.0.5.12:80"), PATIENCE).await.err().unwrap();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
    assert!(sim.net().connect(at("10.0.5.99:80"), PATIENCE).await.err().unwrap().is_unknown());
    assert!(sim.net().ask(at("10.0.5.12:53"), b"", PATIENCE).await.unwrap_err().is_unknown());
}
