//! Small words of Envoy's API that everything else is made of.
//!
//! A message of ours must encode to the same bytes every time, since its version is the hash of them. Maps of the API
//! have no order, so none of them ever gets more than one entry.
use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, SocketAddress,
            TypedExtensionConfig, address, config_source::ConfigSourceSpecifier, data_source, socket_address,
        },
        r#type::{
            matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
            v3::{FractionalPercent, fractional_percent::DenominatorType},
        },
    },
    google::protobuf::{self, Any, BoolValue, UInt32Value},
};
use prost::{Message, Name};
use shared_model::Duration;
use shared_policy::kinds::fault_injection::Percentage;

pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(crate) fn extension<M: Message + Name>(name: &str, message: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(message)) }
}

pub(crate) fn duration(duration: Duration) -> protobuf::Duration {
    let seconds = i64::try_from(duration.0.as_secs()).unwrap_or(i64::MAX);
    protobuf::Duration { seconds, nanos: duration.0.subsec_nanos().cast_signed() }
}

pub(crate) fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(crate) fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

pub(crate) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// More of the configuration comes on the stream on which this came.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// The same, without a limit on the wait: half a configuration would be worse than the one before.
pub(crate) fn ads_without_limit() -> ConfigSource {
    ConfigSource { initial_fetch_timeout: Some(duration(Duration::ZERO)), ..ads() }
}

pub(crate) fn socket(address: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

pub(crate) fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }
}

fn matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

pub(crate) fn exact(text: &str) -> StringMatcher {
    matcher(MatchPattern::Exact(text.to_owned()))
}

pub(crate) fn prefix(text: &str) -> StringMatcher {
    matcher(MatchPattern::Prefix(text.to_owned()))
}

pub(crate) fn regex(pattern: &str) -> StringMatcher {
    matcher(MatchPattern::SafeRegex(regex_matcher(pattern)))
}

pub(crate) fn regex_matcher(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..RegexMatcher::default() }
}

/// A regular expression that matches exactly this text.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && !"/:_-".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

pub(crate) fn percent(percentage: Percentage) -> FractionalPercent {
    let (numerator, denominator) = percentage.fraction();
    let denominator = match denominator {
        100 => DenominatorType::Hundred,
        10_000 => DenominatorType::TenThousand,
        _ => DenominatorType::Million,
    };
    FractionalPercent { numerator, denominator: denominator.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_text_matches_only_itself() {
        assert_eq!(escape("spiffe://a.b/c-d_1"), r"spiffe://a\.b/c-d_1");
        assert_eq!(escape("a|b(c)*"), r"a\|b\(c\)\*");
    }
}
