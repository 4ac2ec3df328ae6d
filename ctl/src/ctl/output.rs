//! How answers are printed: each kind of answer is an [`Answer`] that knows its shape in every format it has, and the
//! [`Printer`] picks the one that was asked for with `--write-out`. Nothing else writes answers to standard output.

use std::io::Write as _;

use kvorum_client::response::ResponseHeader;
use kvorum_client::{KeyValue, MemberId};

use crate::command::{EXIT_BAD_FEATURE, EXIT_IO, Failure};
use crate::golang;

/// `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    /// # Errors
    /// When there is no such format.
    pub fn parse(name: &str) -> Result<Self, Failure> {
        match name {
            "simple" => Ok(Self::Simple),
            "fields" => Ok(Self::Fields),
            "json" => Ok(Self::Json),
            "protobuf" => Ok(Self::Protobuf),
            "table" => Ok(Self::Table),
            _ => Err(Failure::new(EXIT_BAD_FEATURE, "unsupported output format")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }
}

/// What changes the look of an answer within a format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// `--hex`: ids, and in the simple format keys and values, in hexadecimal.
    pub is_hex: bool,
    /// `--print-value-only`: no keys in the simple format.
    pub value_only: bool,
}

/// Something that can be printed. A format that it does not have ends the command with etcd's words and exit code.
pub trait Answer {
    fn simple(&self, style: Style, text: &mut Text);

    fn fields(&self, _style: Style) -> Option<Text> {
        None
    }

    /// One line without its end.
    fn json(&self, _style: Style) -> Option<String> {
        None
    }

    /// The message of the wire.
    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }

    fn table(&self, _style: Style) -> Option<String> {
        None
    }
}

/// Prints answers to standard output.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    pub format: Format,
    pub style: Style,
}

impl Printer {
    /// The bytes of an answer.
    ///
    /// # Errors
    /// When the answer does not have the format.
    pub fn render(&self, answer: &dyn Answer) -> Result<Vec<u8>, Failure> {
        let rendered = match self.format {
            Format::Simple => {
                let mut text = Text::default();
                answer.simple(self.style, &mut text);
                Some(text.0)
            }
            Format::Fields => answer.fields(self.style).map(|text| text.0),
            Format::Json => answer.json(self.style).map(|json| (json + "\n").into_bytes()),
            Format::Protobuf => answer.protobuf(),
            Format::Table => answer.table(self.style).map(String::into_bytes),
        };
        let unsupported = || format!("{} not supported as output format", self.format.name());
        rendered.ok_or_else(|| Failure::new(EXIT_BAD_FEATURE, unsupported()))
    }

    /// # Errors
    /// When the answer does not have the format, or nobody reads what is printed.
    pub fn print(&self, answer: &dyn Answer) -> Result<(), Failure> {
        print_bytes(&self.render(answer)?)
    }
}

/// Writes to standard output at once.
///
/// # Errors
/// When nobody reads it any more; nothing is said about that.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|_| Failure::silent(EXIT_IO))
}

/// Lines of bytes, since keys and values need not be text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl Text {
    pub fn line(&mut self, line: impl AsRef<[u8]>) {
        self.0.extend_from_slice(line.as_ref());
        self.0.push(b'\n');
    }

    /// `"Name" : value`.
    pub fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format!("\"{name}\" : {value}"));
    }

    /// `"Name" : "quoted value"`.
    pub fn quoted_field(&mut self, name: &str, value: &[u8]) {
        self.field(name, golang::quote(value));
    }

    /// An id of a member or a cluster.
    pub fn id_field(&mut self, name: &str, id: u64, style: Style) {
        if style.is_hex {
            self.field(name, MemberId(id));
        } else {
            self.field(name, id);
        }
    }

    /// An id of a lease.
    pub fn lease_field(&mut self, name: &str, id: i64, style: Style) {
        if style.is_hex {
            self.field(name, format_args!("{id:016x}"));
        } else {
            self.field(name, id);
        }
    }

    /// What every answer begins with in the format of fields.
    pub fn header_fields(&mut self, header: Option<&ResponseHeader>, style: Style) {
        let header = header.copied().unwrap_or_default();
        self.id_field("ClusterID", header.cluster_id, style);
        self.id_field("MemberID", header.member_id, style);
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    /// A key in the format of fields, each name behind `prefix`.
    pub fn key_value_fields(&mut self, prefix: &str, kv: &KeyValue, style: Style) {
        self.quoted_field(&format!("{prefix}Key"), &kv.key);
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.quoted_field(&format!("{prefix}Value"), &kv.value);
        self.lease_field(&format!("{prefix}Lease"), kv.lease, style);
    }

    /// A key and its value, each on a line, in the simple format.
    pub fn key_value_lines(&mut self, kv: &KeyValue, style: Style) {
        let mut show = |bytes: &[u8]| match style.is_hex {
            true => self.line(bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()),
            false => self.line(bytes),
        };
        if !style.value_only {
            show(&kv.key);
        }
        show(&kv.value);
    }
}
