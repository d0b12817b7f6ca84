//! The line ends of a document.

use std::borrow::Cow;

/// The line ends of a document. The models were trained on `\n`: a document that uses `\r\n` throughout, or `\r`, is shown to them
/// as if it used `\n`, and gets its own line ends back, in the new text too. A document that mixes them is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnds {
    /// `\n`, or a mixture: the model is shown the text as it is.
    AsTheyAre,
    /// `\r\n` throughout.
    CrLf,
    /// `\r` throughout.
    Cr,
}

impl LineEnds {
    /// The line ends of the document that `parts` make, with a hole between every two.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut pairs, mut returns, mut feeds) = (0, 0, 0);
        for part in parts {
            pairs += part.matches("\r\n").count();
            returns += part.matches('\r').count();
            feeds += part.matches('\n').count();
        }
        match (pairs, returns, feeds) {
            (1.., _, _) if returns == pairs && feeds == pairs => Self::CrLf,
            (0, 1.., 0) => Self::Cr,
            _ => Self::AsTheyAre,
        }
    }

    /// Text of the document as the model is shown it.
    pub fn to_model(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::AsTheyAre => text.into(),
            Self::CrLf => text.replace("\r\n", "\n").into(),
            Self::Cr => text.replace('\r', "\n").into(),
        }
    }

    /// Text from the model as the document holds it.
    pub fn to_document(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::AsTheyAre => text.into(),
            Self::CrLf => text.replace("\r\n", "\n").replace('\n', "\r\n").into(),
            Self::Cr => text.replace("\r\n", "\n").replace('\n', "\r").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_ends_are_recognized_and_given_back() {
        let ends = LineEnds::of(["a\r\nb\r\n", "c\r\n"]);
        assert_eq!((ends.to_model("a\r\nb"), ends.to_document("x\ny\r\n")), ("a\nb".into(), "x\r\ny\r\n".into()));
        let ends = LineEnds::of(["a\rb", "\rc"]);
        assert_eq!((ends.to_model("a\rb"), ends.to_document("x\ny")), ("a\nb".into(), "x\ry".into()));
        let mixed = [
            ["", ""],
            ["a\nb", ""],
            ["a\r\nb\n", ""],
            ["a\rb\r\n", ""],
            ["a\rb", "\n"],
            ["a\r", "\nb"],
            ["a\r\n", "\rb"],
        ];
        for parts in mixed {
            assert_eq!(LineEnds::of(parts), LineEnds::AsTheyAre, "{parts:?}");
        }
    }

    proptest! {
        #[test]
        fn a_document_comes_back(text in "([a-z]|\r\n|\n|\r){0,12}") {
            let ends = LineEnds::of([text.as_str()]);
            let model = ends.to_model(&text);
            prop_assert_eq!(ends.to_document(&model), text.as_str());
        }
    }
}
