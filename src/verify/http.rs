//! Fetching a page: one GET by HTTP/1.1 (RFC 9112), with a bounded answer.

use super::check::HttpCheck;
use super::inside::short;
use super::line::{Fault, Lines};

/// Bytes of a page that are looked at.
const PAGE: usize = 1 << 20;
/// Header lines taken.
const HEADERS: usize = 200;

/// Fetches and judges. Gives status and size.
pub(crate) async fn fetch(lines: &mut Lines, check: &HttpCheck, host: &str) -> Result<(u16, usize), Fault> {
    let path = &check.path;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: upgradectl\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    lines.send(&request).await?;
    let first = lines.line().await?;
    let status = parse_status(&first).ok_or_else(|| Fault::new(format!("sent no HTTP answer: {}", short(&first))))?;
    let (mut length, mut chunked) = (None, false);
    for count in 0.. {
        let line = lines.line().await?;
        if line.is_empty() {
            break;
        }
        if count >= HEADERS {
            return Err(Fault::new(format!("sent more than {HEADERS} headers")));
        }
        if let Some((key, value)) = line.split_once(':') {
            match key.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<usize>().ok(),
                "transfer-encoding" => chunked = value.to_ascii_lowercase().contains("chunked"),
                _ => {}
            }
        }
    }
    let wanted = match check.status {
        Some(wanted) => status == wanted,
        None => (200..400).contains(&status),
    };
    if !wanted {
        let expected = check.status.map(|status| format!(", not {status}")).unwrap_or_default();
        return Err(Fault::new(format!("answered {status}{expected}")));
    }
    let body = match (status, chunked) {
        (204 | 304, _) => Vec::new(),
        (_, true) => read_chunks(lines).await?,
        (_, false) => read_plain(lines, length).await?,
    };
    if let Some(text) = &check.contains
        && !body.windows(text.len()).any(|window| window == text.as_bytes())
    {
        return Err(Fault::new(format!("answered {status}, but the page does not contain {text:?}")));
    }
    Ok((status, body.len()))
}

fn parse_status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split_whitespace().nth(1)?.parse().ok().filter(|status| (100..600).contains(status))
}

/// A body of a known length, or up to the end of the connection; at most [`PAGE`] bytes of it.
async fn read_plain(lines: &mut Lines, length: Option<usize>) -> Result<Vec<u8>, Fault> {
    let wanted = length.unwrap_or(PAGE).min(PAGE);
    while lines.buffer().len() < wanted {
        match lines.fill().await {
            Ok(0) if length.is_none() => break,
            Ok(0) => return Err(Fault::new("broke off in the middle of the page")),
            Ok(_) => {}
            // TLS servers that end without close_notify, where the end was the only sign of it.
            Err(_) if length.is_none() && !lines.buffer().is_empty() => break,
            Err(fault) => return Err(fault),
        }
    }
    let mut body = std::mem::take(lines.buffer());
    body.truncate(wanted);
    Ok(body)
}

async fn read_chunks(lines: &mut Lines) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    while body.len() < PAGE {
        let line = lines.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| Fault::new("sent a chunk without a size"))?;
        if size == 0 {
            break;
        }
        let wanted = size.min(PAGE);
        while lines.buffer().len() < wanted {
            if lines.fill().await? == 0 {
                return Err(Fault::new("broke off in the middle of the page"));
            }
        }
        body.extend(lines.buffer().drain(..wanted));
        if wanted < size {
            break;
        }
        lines.line().await?;
    }
    Ok(body)
}
