//! A machine's definition as a text of our own: the API has none. It holds what an edit can change, and whose it is; storing it
//! changes the machine where it differs.

use serde::{Deserialize, Serialize};

use crate::machines::MachineFacts;
use crate::{Cause, Definition, DefinitionEdit, Error, MacAddr, Mark, Result};

/// What of a machine can be defined. Cards are known by their keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) memory_bytes: u64,
    pub(super) cpus: u32,
    pub(super) mark: Option<Mark>,
    pub(super) nics: Vec<Card>,
}

/// A network card in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Card {
    pub(super) key: i32,
    pub(super) mac: Option<MacAddr>,
    pub(super) network: String,
    pub(super) start_connected: bool,
}

impl Text {
    pub(super) fn of(facts: &MachineFacts) -> Self {
        let card = |nic: &crate::machines::MachineNic| Card {
            key: nic.key,
            mac: nic.mac,
            network: nic.network.clone(),
            start_connected: nic.start_connected,
        };
        Self {
            uuid: facts.machine.uuid.clone(),
            name: facts.machine.name.clone(),
            memory_bytes: facts.memory_bytes,
            cpus: facts.cpus,
            mark: facts.mark.clone(),
            nics: facts.nics.iter().map(card).collect(),
        }
    }

    pub(super) fn read(doing: &str, definition: &Definition) -> Result<Self> {
        let text: Self = serde_json::from_str(&definition.text)
            .map_err(|error| Error::new(doing, Cause::Malformed(format!("its definition cannot be read: {error}"))))?;
        match text.name == definition.name {
            true => Ok(text),
            false => Err(Error::new(doing, Cause::Malformed(format!("its definition is that of {:?}", text.name)))),
        }
    }

    pub(super) fn write(&self) -> Result<Definition> {
        let text = serde_json::to_string_pretty(self).map_err(|error| {
            Error::new(format!("write the definition of {}", self.name), Cause::Malformed(error.to_string()))
        })?;
        Ok(Definition { name: self.name.clone(), text })
    }
}

/// Applies an edit.
pub(super) fn derive(original: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
    let doing = format!("edit the definition of {}", original.name);
    let unsupported = |what: &str| Err(Error::new(&*doing, Cause::Unsupported(format!("{what} by the vSphere API"))));
    let mut text = Text::read(&doing, original)?;
    if edit.uuid.as_ref().is_some_and(|uuid| !uuid.eq_ignore_ascii_case(&text.uuid)) {
        return unsupported("the instance UUID of a machine is not changed");
    }
    if !edit.disks.is_empty() {
        return unsupported("disks are not changed in a definition");
    }
    if edit.kernel.is_some() {
        return unsupported("no kernel of the host's starts a machine");
    }
    if edit.macs.len() > text.nics.len() {
        let why = format!("{} hardware addresses for {} cards", edit.macs.len(), text.nics.len());
        return Err(Error::refused(doing, why));
    }
    for (card, mac) in text.nics.iter_mut().zip(&edit.macs) {
        card.mac = mac.or(card.mac);
    }
    text.name = edit.name.clone().unwrap_or(text.name);
    text.mark = edit.mark.clone().unwrap_or(text.mark);
    text.memory_bytes = edit.memory_bytes.unwrap_or(text.memory_bytes);
    text.cpus = edit.vcpus.unwrap_or(text.cpus);
    text.write()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn original() -> Definition {
        let card = Card {
            key: 4000,
            mac: "00:50:56:00:00:01".parse().ok(),
            network: "VM Network".into(),
            start_connected: true,
        };
        let text = Text {
            uuid: "u".into(),
            name: "web1".into(),
            memory_bytes: 1 << 30,
            cpus: 2,
            mark: None,
            nics: vec![card],
        };
        text.write().unwrap()
    }

    #[test]
    fn an_edit_changes_what_it_names() {
        assert_eq!(derive(&original(), &DefinitionEdit::default()).unwrap(), original());
        let mac: MacAddr = "00:50:56:00:00:02".parse().unwrap();
        let mark: Mark = "web1--k3f9.clone".parse().unwrap();
        let edit = DefinitionEdit {
            name: Some("web1--k3f9".into()),
            macs: vec![Some(mac)],
            mark: Some(Some(mark.clone())),
            ..DefinitionEdit::default()
        };
        let text = Text::read("test", &derive(&original(), &edit).unwrap()).unwrap();
        assert_eq!(
            (text.name.as_str(), text.mark, text.nics[0].mac, text.cpus),
            ("web1--k3f9", Some(mark), Some(mac), 2)
        );
    }

    #[test]
    fn what_the_api_cannot_do_is_refused() {
        let more = DefinitionEdit { macs: vec![None, None], ..DefinitionEdit::default() };
        let other = DefinitionEdit { uuid: Some("x".into()), ..DefinitionEdit::default() };
        for edit in [more, other] {
            assert!(derive(&original(), &edit).is_err());
        }
        let strange = Definition { text: original().text.replace("web1", "web2"), ..original() };
        assert!(derive(&strange, &DefinitionEdit::default()).is_err());
    }
}
