//! JSON Schema of our types, as other languages read it: whole, without references, and without
//! formats that only some of them know.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The schema of a type.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    drop_formats(&mut schema);
    schema
}

fn drop_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // A field may be called so too; a format is a word.
            if fields.get("format").is_some_and(Value::is_string) {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_formats);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_formats),
        _ => (),
    }
}
