//! The inside of a guest by its tools. What stands behind the machine here is a shell of this machine's; the ring's own story has a
//! guest of the native lab there.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use hypervisors::host::{Command, Job, JobStatus};
use hypervisors::machines::GuestLogin;
use hypervisors::{Cause, Change, Machines as _};

use integration::vcenter::Speaks;

use super::{WEB, lab};

fn login(password: &str) -> GuestLogin {
    GuestLogin { user: "root".into(), password: password.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_files_and_jobs_go_through_the_tools() -> Result<()> {
    // One after the other: both would find in /tmp what the other has there for a moment.
    through_the_tools(Speaks::Soap).await?;
    through_the_tools(Speaks::Json).await
}

async fn through_the_tools(speaks: Speaks) -> Result<()> {
    let (vcenter, platform) = lab(speaks)?;
    let uuid = platform.find(WEB).await?.uuid;
    let inside = platform.inside(&uuid, login("g00d"));
    let unreachable = inside.run(&Command::new(["true"])).await.unwrap_err();
    assert!(unreachable.is_unknown(), "tools that do not answer are a link that is lost: {unreachable}");
    vcenter.tell(r#"guest DC0_H0_VM0 root g00d ["sh","-c"]"#)?;
    let refused = platform.inside(&uuid, login("b4d")).run(&Command::new(["true"])).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::Refused(_)) && !format!("{refused:?}").contains("b4d"), "{refused:?}");

    let odd = "it's $HOME; \"two\" words\\";
    // vCenter 8.0.3 was seen to forget a session that idled for hours where it reaches into guests, and there alone.
    vcenter.tell("forget")?;
    let output = inside.run(&Command::new(["printf", "%s|", odd, ""])).await?;
    assert_eq!(platform.calls()["Login"], 2);
    assert_eq!((output.status, output.text().as_str()), (0, format!("{odd}||").as_str()));
    let output = inside
        .run(&Command::new(["sh", "-c", "cat; echo $WORD >&2; exit 7"]).stdin("given").env("WORD", "a b"))
        .await?;
    assert_eq!((output.status, output.text().as_str(), output.stderr.as_slice()), (7, "given", &b"a b\n"[..]));
    let missing = inside.run(&Command::new(["no-such-program"])).await.unwrap_err();
    assert!(matches!(missing.cause, Cause::NotFound(_)), "{missing}");
    let mut much = Command::new(["sh", "-c", "head -c 100000 /dev/zero"]);
    much.limit = 1000;
    let output = inside.run(&much).await?;
    assert!(output.truncated && output.stdout.len() == 1000);
    let slow = inside.run(&Command::new(["sleep", "20"]).timeout(Duration::from_secs(1))).await.unwrap_err();
    assert!(slow.is_unknown(), "{slow}");

    let dir = tempfile::tempdir()?;
    let file = dir.path().join("yum.conf");
    assert_eq!(inside.read_file(&file, 100).await?, None);
    assert_eq!(inside.write_file(&file, b"exclude=kernel*\n", 0o640).await?, Change::Created);
    assert_eq!(inside.write_file(&file, b"exclude=kernel*\n", 0o640).await?, Change::Unchanged);
    assert_eq!(inside.read_file(&file, 100).await?.as_deref(), Some(&b"exclude=kernel*\n"[..]));
    assert!(inside.read_file(&file, 3).await.is_err() && inside.read_file(Path::new("/etc"), 3).await.is_err());

    let job = Job {
        id: format!("vsphere-test-{}", std::process::id()),
        argv: vec!["echo".into(), "done".into()],
        env: Vec::new(),
    };
    assert_eq!(inside.job_start(&job).await?, Change::Created);
    for _ in 0..50 {
        match inside.job_status(&job.id).await? {
            JobStatus::Ended { status, tail } => {
                assert_eq!((status, tail.as_slice()), (0, &b"done\n"[..]));
                break;
            }
            JobStatus::Running { .. } => tokio::time::sleep(Duration::from_millis(200)).await,
            other => panic!("{other:?}"),
        }
    }
    inside.job_forget(&job.id).await?;
    // Nothing is left in the guest.
    let left = std::fs::read_dir("/tmp")?.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("upgradectl-") && entry.path().join("out").exists()
    });
    assert!(!left);
    platform.close().await?;
    Ok(())
}
