//! Properties of the API's objects, by the names of the reference, as JSON.
//!
//! The generated types have hundreds of fields; here they are read as the VI JSON form of the API (`_typeName` names a type, and
//! `_value` holds a value or an array), whatever the transport, and written in it: [`typed`] makes the generated type of one.

use std::borrow::Cow;
use std::sync::Arc;

use miniserde::ser::Fragment;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use vim_rs::core::client::{BoxFuture, VimClient as _};
use vim_rs::mo::{ContainerView, PropertyCollector, ViewManager};
use vim_rs::types::enums::MoTypesEnum;
use vim_rs::types::structs::{
    ManagedObjectReference, ObjectContent, ObjectSpec, PropertyFilterSpec, PropertySpec, RetrieveOptions,
    RetrieveResult, SelectionSpec, TraversalSpec,
};
use vim_rs::types::traits::SelectionSpecTrait;

use super::Trouble;
use super::session::Session;

/// An object, and those of the wanted properties that are set.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) reference: ManagedObjectReference,
    pub(super) properties: Map<String, Value>,
}

impl Seen {
    /// A property, as far as it is there and has the form that is looked for.
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.properties.get(name)?).ok()
    }
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.properties.get(name)?.as_str()
    }
}

/// A reference by its two parts.
pub(super) fn reference(kind: MoTypesEnum, id: impl Into<String>) -> ManagedObjectReference {
    ManagedObjectReference { r#type: kind, value: id.into() }
}

/// Properties of one object; `None` if it does not exist.
pub(super) async fn of(
    session: &Arc<Session>,
    object: &ManagedObjectReference,
    paths: &[&str],
) -> Result<Option<Seen>, Trouble> {
    let set = ObjectSpec { obj: object.clone(), skip: None, select_set: None };
    let kinds = vec![wanted(object.r#type.as_str(), paths)];
    match collect(session, vec![set], kinds).await {
        Ok(found) => Ok(found.into_iter().next()),
        Err(trouble) if trouble.is("ManagedObjectNotFound") => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Properties of several objects of one type, or of what that type is the general one of.
pub(super) async fn of_each(
    session: &Arc<Session>,
    objects: &[ManagedObjectReference],
    kind: &str,
    paths: &[&str],
) -> Result<Vec<Seen>, Trouble> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let set = objects.iter().map(|object| ObjectSpec { obj: object.clone(), skip: None, select_set: None });
    collect(session, set.collect(), vec![wanted(kind, paths)]).await
}

/// Properties of one object, and of all that it is in; `None` if it does not exist.
pub(super) async fn with_above(
    session: &Arc<Session>,
    object: &ManagedObjectReference,
    paths: &[&str],
    above: &[(&str, &[&str])],
) -> Result<Option<(Seen, Vec<Seen>)>, Trouble> {
    // A selection that selects itself again, by its name: up to the root.
    let again = || -> Option<Vec<Box<dyn SelectionSpecTrait>>> {
        let named = |name: &str| Box::new(SelectionSpec { name: Some(name.into()) }) as Box<dyn SelectionSpecTrait>;
        Some(vec![named("up"), named("vapp"), named("out")])
    };
    let up = |name: &str, kind: &str, path: &str| {
        Box::new(TraversalSpec {
            selection_spec_: SelectionSpec { name: Some(name.into()) },
            r#type: kind.into(),
            path: path.into(),
            skip: Some(false),
            select_set: again(),
        }) as Box<dyn SelectionSpecTrait>
    };
    let select = vec![
        up("up", "ManagedEntity", "parent"),
        up("vapp", "VirtualMachine", "parentVApp"),
        up("out", "VirtualApp", "parentFolder"),
    ];
    let set = ObjectSpec { obj: object.clone(), skip: Some(false), select_set: Some(select) };
    let mut kinds = vec![wanted(object.r#type.as_str(), paths)];
    kinds.extend(above.iter().map(|(kind, paths)| wanted(kind, paths)));
    let found = match collect(session, vec![set], kinds).await {
        Ok(found) => found,
        Err(trouble) if trouble.is("ManagedObjectNotFound") => return Ok(None),
        Err(trouble) => return Err(trouble),
    };
    let (mut own, rest): (Vec<Seen>, Vec<Seen>) = found.into_iter().partition(|seen| seen.reference == *object);
    Ok(own.pop().map(|own| (own, rest)))
}

/// Properties of all objects of these kinds, wherever they are.
pub(super) async fn all(session: &Arc<Session>, kinds: &[(&str, &[&str])]) -> Result<Vec<Seen>, Trouble> {
    let content = session.service_content();
    let Some(manager) = &content.view_manager else {
        return Err(Trouble::malformed("the service has no view manager"));
    };
    let names: Vec<String> = kinds.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    let manager = ViewManager::new(session.clone(), &manager.value);
    let view = manager.create_container_view(&content.root_folder, Some(&names), true).await?;
    let set = ObjectSpec {
        obj: view.clone(),
        skip: Some(true),
        select_set: Some(vec![Box::new(TraversalSpec {
            selection_spec_: SelectionSpec { name: Some("view".into()) },
            r#type: "ContainerView".into(),
            path: "view".into(),
            skip: Some(false),
            select_set: None,
        })]),
    };
    let found = collect(session, vec![set], kinds.iter().map(|(kind, paths)| wanted(kind, paths)).collect()).await;
    // It goes with the session in any case.
    if let Err(fault) = ContainerView::new(session.clone(), &view.value).destroy_view().await {
        tracing::debug!(%fault, "a view was not destroyed");
    }
    found
}

fn wanted(kind: &str, paths: &[&str]) -> PropertySpec {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    PropertySpec { r#type: kind.to_owned(), all: Some(false), path_set: Some(paths) }
}

/// Boxed, and no page of the generated types lives across a wait, for [`Trouble`]'s reason.
fn collect<'a>(
    session: &'a Arc<Session>,
    objects: Vec<ObjectSpec>,
    kinds: Vec<PropertySpec>,
) -> BoxFuture<'a, Result<Vec<Seen>, Trouble>> {
    Box::pin(async move {
        let collector = PropertyCollector::new(session.clone(), &session.service_content().property_collector.value);
        let spec =
            [PropertyFilterSpec { prop_set: kinds, object_set: objects, report_missing_objects_in_results: None }];
        let mut found = Vec::new();
        let options = RetrieveOptions { max_objects: None };
        let mut next = page(&mut found, collector.retrieve_properties_ex(&spec, &options).await?)?;
        while let Some(token) = next {
            next = page(&mut found, Some(collector.continue_retrieve_properties_ex(&token).await?))?;
        }
        Ok(found)
    })
}

/// Reads a page; the token of the next one.
fn page(found: &mut Vec<Seen>, page: Option<RetrieveResult>) -> Result<Option<String>, Trouble> {
    let Some(page) = page else { return Ok(None) };
    for object in page.objects {
        found.push(seen(object)?);
    }
    Ok(page.token)
}

fn seen(object: ObjectContent) -> Result<Seen, Trouble> {
    let mut properties = Map::new();
    for property in object.prop_set.unwrap_or_default() {
        properties.insert(property.name, json(&property.val)?);
    }
    Ok(Seen { reference: object.obj, properties })
}

/// A generated value as JSON, without the wrapping of plain values and arrays.
pub(super) fn json(value: &(impl miniserde::Serialize + ?Sized)) -> Result<Value, Trouble> {
    let text = miniserde::json::to_string(value);
    let value: Value = serde_json::from_str(&text).map_err(|error| Trouble::malformed(error.to_string()))?;
    Ok(match value {
        Value::Object(mut object) if object.contains_key("_value") => object.remove("_value").unwrap_or_default(),
        other => other,
    })
}

/// The generated type of a value in JSON. What misses a field that the API requires, or has one of another form, is an error.
pub(super) fn typed<T: miniserde::Deserialize>(value: &Value) -> Result<T, Trouble> {
    miniserde::json::from_str(&value.to_string())
        .map_err(|_| Trouble::malformed(format!("this is not a {}: {value}", std::any::type_name::<T>())))
}

/// The parameters of a call whose types are large: erased, for [`Trouble`]'s reason. Fields in the order of the reference.
pub(super) struct Request {
    kind: &'static str,
    fields: Vec<(&'static str, Box<dyn miniserde::Serialize + Send + Sync>)>,
}

impl Request {
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, fields: Vec::new() }
    }
    pub(super) fn with(mut self, name: &'static str, value: impl miniserde::Serialize + Send + Sync + 'static) -> Self {
        self.fields.push((name, Box::new(value)));
        self
    }
    /// A field of a generated type, from its JSON.
    pub(super) fn typed<T>(self, name: &'static str, value: &Value) -> Result<Self, Trouble>
    where
        T: miniserde::Deserialize + miniserde::Serialize + Send + Sync + 'static,
    {
        Ok(self.with(name, typed::<T>(value)?))
    }
}

impl miniserde::Serialize for Request {
    fn begin(&self) -> Fragment<'_> {
        Fragment::Map(Box::new(Fields { request: self, next: 0 }))
    }
}

struct Fields<'a> {
    request: &'a Request,
    next: usize,
}

impl miniserde::ser::Map for Fields<'_> {
    fn next(&mut self) -> Option<(Cow<'_, str>, &dyn miniserde::Serialize)> {
        let at = self.next;
        self.next += 1;
        if at == 0 {
            return Some((Cow::Borrowed("_typeName"), &self.request.kind));
        }
        let (name, value) = self.request.fields.get(at - 1)?;
        Some((Cow::Borrowed(name), &**value))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the properties of a page are, that came in JSON.
    fn read(answer: &Value) -> Map<String, Value> {
        let mut found = Vec::new();
        let text = answer.to_string();
        let token = page(&mut found, miniserde::json::from_str(&text).unwrap()).unwrap();
        assert_eq!((found.len(), token.as_deref()), (1, Some("1")));
        assert_eq!(found[0].reference, reference(MoTypesEnum::VirtualMachine, "vm-57"));
        found.remove(0).properties
    }

    #[test]
    fn an_answer_in_json_is_read_with_and_without_the_types_that_go_without_saying() {
        let any = |kind: &str, value: Value| json!({"_typeName": kind, "_value": value});
        let folder = json!({"_typeName": "ManagedObjectReference", "type": "Folder", "value": "group-v3"});
        let card = json!({"_typeName": "VirtualVmxnet3", "key": 4000, "macAddress": "00:50:56:8f:00:01"});
        let fault =
            json!({"_typeName": "FileFault", "file": "[ds] a.vmdk", "faultMessage": [{"key": "k", "message": "busy"}]});
        let values = [
            ("name", any("string", json!("web1"))),
            ("config.hardware.numCPU", any("int", json!(2))),
            ("config.template", any("boolean", json!(false))),
            ("runtime.powerState", any("VirtualMachinePowerState", json!("poweredOn"))),
            ("runtime.bootTime", any("dateTime", json!("2026-11-27T07:38:35.708151Z"))),
            ("parent", folder.clone()),
            ("network", any("ArrayOfManagedObjectReference", json!([folder]))),
            ("config.hardware.device", any("ArrayOfVirtualDevice", json!([card]))),
            ("info.error", fault),
        ];
        let bare: Vec<Value> = values.iter().map(|(name, value)| json!({"name": name, "val": value})).collect();
        let named: Vec<Value> = values
            .iter()
            .map(|(name, val)| json!({"_typeName": "DynamicProperty", "name": name, "val": val}))
            .collect();
        let bare = read(&json!({"token": "1",
            "objects": [{"obj": {"type": "VirtualMachine", "value": "vm-57"}, "propSet": bare}]}));
        let named = read(
            &json!({"_typeName": "RetrieveResult", "token": "1", "objects": [{"_typeName": "ObjectContent",
            "obj": {"_typeName": "ManagedObjectReference", "type": "VirtualMachine", "value": "vm-57"}, "propSet": named}]}),
        );
        assert_eq!(bare, named);
        assert_eq!(bare["name"], "web1");
        assert_eq!(bare["config.hardware.numCPU"], 2);
        assert_eq!(bare["runtime.powerState"], "poweredOn");
        assert_eq!(bare["parent"]["value"], "group-v3");
        assert_eq!(bare["network"][0]["value"], "group-v3");
        assert_eq!(bare["config.hardware.device"][0]["_typeName"], "VirtualVmxnet3");
        assert_eq!(bare["info.error"]["file"], "[ds] a.vmdk");
        assert_eq!(bare["info.error"]["faultMessage"][0]["message"], "busy");
    }

    #[test]
    fn what_is_sent_has_its_type_in_every_object() {
        // vCenter 8.0.3 refuses those without.
        fn all_named(value: &Value) -> bool {
            match value {
                Value::Object(fields) => fields.contains_key("_typeName") && fields.values().all(all_named),
                Value::Array(parts) => parts.iter().all(all_named),
                _ => true,
            }
        }
        let set = ObjectSpec { obj: reference(MoTypesEnum::Folder, "group-d1"), skip: Some(true), select_set: None };
        let spec = PropertyFilterSpec {
            prop_set: vec![wanted("Folder", &["name"])],
            object_set: vec![set],
            report_missing_objects_in_results: None,
        };
        let request = Request::new("RetrievePropertiesExRequestType").with("specSet", vec![spec]);
        let text = miniserde::json::to_string(&request);
        let sent: Value = serde_json::from_str(&text).unwrap();
        assert!(all_named(&sent) && sent["specSet"][0]["objectSet"][0]["obj"]["value"] == "group-d1", "{text}");
    }
}
