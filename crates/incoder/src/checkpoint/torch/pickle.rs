//! What a pickle of a state dict holds: values in one table that refer to each other by index, so that nesting costs no
//! stack and sharing costs no copies.

/// InCoder-6B's pickle takes 60 KB.
pub(super) const MAX_BYTES: u64 = 4 << 20;

/// Why a pickle is refused.
pub(super) type Refusal = String;
pub(super) type Result<T> = std::result::Result<T, Refusal>;

/// Which value, in [`Pickle`]'s table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub u32);

/// What the elements of a storage are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    fn of_storage_class(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }
}

/// All that a checkpoint may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `_rebuild_tensor`, and `_rebuild_tensor_v2` with two more arguments.
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

impl Global {
    pub fn named(module: &str, name: &str) -> Result<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Self::RebuildParameter),
            ("torch", class) if class.ends_with("Storage") => match Element::of_storage_class(class) {
                Some(element) => Ok(Self::Storage(element)),
                None => Err(format!("has a storage of the class {class:?}, which is not read")),
            },
            _ => Err(format!("names {module:?} {name:?}, which no state dict needs: it may be an attack")),
        }
    }
}

/// A run of elements somewhere in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub element: Element,
    /// Letters and digits; the name of its entry.
    pub key: String,
    /// Elements.
    pub count: u64,
}

/// A view into a storage, all in elements; whether it lies within is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub storage: Storage,
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(String),
    Global(Global),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Storage(Storage),
    Tensor(Box<Tensor>),
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    pub values: Vec<Value>,
    pub top: Id,
    /// Bytes it takes, STOP included.
    pub length: usize,
}

impl Pickle {
    fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The integer that this pickle is.
    pub fn as_int(&self) -> Option<i64> {
        match self.value(self.top) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The texts of the list that this pickle is.
    pub fn as_texts(&self) -> Option<Vec<&str>> {
        let Value::List(items) = self.value(self.top) else { return None };
        items.iter().map(|&id| self.text(id)).collect()
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn items(&self) -> Option<impl Iterator<Item = (&str, &Value)>> {
        let Value::Dict(items) = self.value(self.top) else { return None };
        Some(items.iter().filter_map(|&(key, value)| Some((self.text(key)?, self.value(value)))))
    }

    /// The truth of an entry of the mapping that this pickle is.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.items()?.find_map(|(key, value)| match value {
            Value::Bool(flag) if key == name => Some(*flag),
            _ => None,
        })
    }

    /// The tensors of the mapping that this pickle is, other entries left out; `None` when it is no mapping.
    pub fn tensors(&self) -> Option<Vec<(&str, &Tensor)>> {
        fn tensor(value: &Value) -> Option<&Tensor> {
            match value {
                Value::Tensor(tensor) => Some(tensor),
                _ => None,
            }
        }
        Some(self.items()?.filter_map(|(name, value)| Some((name, tensor(value)?))).collect())
    }
}
