//! Client assertions: a JWT signed with a registered certificate, or a federated token.
//!
//! Header `PS256` and `x5t#S256`; `aud` the token URL, `iss` = `sub` = client id, `jti`, `nbf`, `exp` at most ten
//! minutes apart (Microsoft: certificate-credentials; facts, section 8). Entra also takes the older RS256 with
//! SHA-1; this model does not, because the worker promises not to use it.

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{directory::App, entra::Refusal};

/// The farthest that `exp` may lie from `nbf`, in seconds.
const LONGEST: i64 = 600;
/// Clocks may differ by this, in seconds.
const SKEW: i64 = 300;

/// Whether the assertion proves the application.
pub(super) fn check(app: &App, client_id: &str, assertion: &str, url: &str, now: i64) -> Result<(), Refusal> {
    if app.federated.contains(assertion) {
        return Ok(());
    }
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, claims, signature] = parts[..] else { return Err(bad("it is no JWT")) };
    let (Some(header_json), Some(claims_json)) = (object(header), object(claims)) else {
        return Err(bad("it is no JWT"));
    };
    let Some(thumbprint) = header_json["x5t#S256"].as_str() else {
        let text = format!(
            "No matching federated identity record found for presented assertion. Assertion Issuer: '{}'.",
            claims_json["iss"].as_str().unwrap_or_default()
        );
        return Err((401, "invalid_client", 70_021, text));
    };
    if header_json["alg"] != "PS256" || header_json["typ"] != "JWT" {
        return Err(bad("the algorithm must be PS256"));
    }
    let Some(key) = app.certificates.get(thumbprint) else {
        return Err(bad("The key was not found"));
    };
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| bad("the signature is no base64url"))?;
    let signed = format!("{header}.{claims}");
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| bad("the signature does not match the key"))?;
    check_claims(&claims_json, client_id, url, now)
}

fn check_claims(claims: &Value, client_id: &str, url: &str, now: i64) -> Result<(), Refusal> {
    if claims["aud"] != url {
        return Err((
            401,
            "invalid_client",
            700_023,
            format!("Client assertion audience claim does not match {url}."),
        ));
    }
    if claims["iss"] != client_id || claims["sub"] != client_id {
        return Err((
            401,
            "invalid_client",
            700_021,
            "Client assertion application identifier doesn't match 'client_id' parameter.".into(),
        ));
    }
    if claims["jti"].as_str().is_none_or(str::is_empty) {
        return Err(bad("it has no jti"));
    }
    let (Some(begin), Some(end)) = (claims["nbf"].as_i64(), claims["exp"].as_i64()) else {
        return Err(bad("nbf or exp is missing"));
    };
    if now + SKEW < begin || now - SKEW > end || end - begin > LONGEST || end <= begin {
        return Err((
            401,
            "invalid_client",
            700_024,
            "Client assertion is not within its valid time range.".into(),
        ));
    }
    Ok(())
}

fn bad(why: &str) -> Refusal {
    (
        401,
        "invalid_client",
        700_027,
        format!(
            "The certificate with identifier used to sign the client assertion is not registered on application, or the assertion failed signature validation: {why}."
        ),
    )
}

fn object(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The RSA public key (PKCS #1 DER) of a certificate (DER).
pub(super) fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate, _) = der(certificate)?;
    let (_, mut fields, _) = der(certificate)?;
    // Version (tagged [0], may be missing), serial, algorithm, issuer, validity, subject; then the key.
    let (tag, _, rest) = der(fields)?;
    if tag == 0xA0 {
        fields = rest;
    }
    for _ in 0..5 {
        (_, _, fields) = der(fields)?;
    }
    let (_, key, _) = der(fields)?;
    let (_, _, bits) = der(key)?;
    let (tag, bits, _) = der(bits)?;
    (tag == 0x03).then(|| bits.get(1..).map(<[u8]>::to_vec)).flatten()
}

/// Tag, content and rest of the first DER element.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        (digits.iter().try_fold(0_usize, |n, d| n.checked_mul(256)?.checked_add(usize::from(*d)))?, rest)
    };
    let (content, tail) = rest.split_at_checked(length)?;
    Some((tag, content, tail))
}
