use super::*;

fn from(options: &[(&str, &str)]) -> Result<Jwt, String> {
    Jwt::from_options(options, |path| std::fs::read(path).map_err(|error| error.to_string()))
}

/// Keys made by OpenSSL; nobody uses them.
fn pem(name: &str) -> String {
    format!("{}/tests/keys/{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

/// Each method with files of its private and its public key.
const PAIRS: [(&str, &str, &str); 12] = [
    ("RS256", "rsa-pkcs1", "rsa-public"),
    ("RS384", "rsa-pkcs8", "rsa-public"),
    ("RS512", "rsa-pkcs8", "rsa-certificate"),
    ("PS256", "rsa-pkcs1", "rsa-public"),
    ("PS384", "rsa-pkcs1", "rsa-public"),
    ("PS512", "rsa-pkcs8", "rsa-public-pkcs1"),
    ("ES256", "p256-sec1", "p256-public"),
    ("ES256", "p256-pkcs8", "p256-public"),
    ("ES384", "p384-sec1", "p384-public"),
    ("ES512", "p521-sec1", "p521-public"),
    ("ES512", "p521-pkcs8", "p521-public"),
    ("EdDSA", "ed25519", "ed25519-public"),
];

#[test]
fn a_token_of_each_method_is_checked_with_the_public_key_alone() {
    for (method, private, public) in PAIRS {
        let (private, public) = (pem(private), pem(public));
        let both = [("sign-method", method), ("priv-key", &private[..]), ("pub-key", &public[..]), ("ttl", "1m")];
        let signer = from(&both).unwrap_or_else(|error| panic!("{method}: {error}"));
        let verifier = from(&[both[0], both[2]]).unwrap_or_else(|error| panic!("{method}: {error}"));
        let token = signer.sign("alice", 7).expect("a token");
        for jwt in [&signer, &verifier] {
            let claims = jwt.verify(&token).unwrap_or_else(|| panic!("{method}: {token}"));
            assert_eq!((claims.user.as_str(), claims.revision), ("alice", 7), "{method}");
        }
        assert_eq!(verifier.sign("alice", 7), Err(SignError::VerifyOnly));
        assert_eq!(verifier.verify_at(&token, now() + Duration::from_secs(61)), None, "{method}: it is over");
        // Any other text under the same signature.
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let forged = token.replace(signed, &signed.replace(&signed[signed.len() - 8..], "AAAAAAAA"));
        assert_eq!(verifier.verify(&forged), None, "{method}");
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        bytes[3] ^= 1;
        assert_eq!(verifier.verify(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&bytes))), None, "{method}");
        assert_eq!(verifier.verify(&format!("{signed}.")), None, "{method}");
    }
}

fn hmac_with(secret: &str) -> Jwt {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), secret).expect("written");
    let path = file.path().to_string_lossy().into_owned();
    from(&[("sign-method", "HS384"), ("priv-key", &path)]).expect("a key")
}

#[test]
fn etcd_3_5_8_claims_must_be_there_and_of_their_kind() {
    let jwt = hmac_with("secret");
    let token = |header: &str, claims: &str| {
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jwt.signing.as_ref().expect("a key").sign(text.as_bytes()).expect("signed");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let header = r#"{"alg":"HS384"}"#;
    let good = r#"{"username":"u","revision":3}"#;
    assert!(jwt.verify(&token(header, good)).is_some_and(|claims| claims.expires.is_none()));
    assert!(jwt.verify(&token(header, r#"{"username":"u","revision":3.0,"exp":99999999999,"nbf":1}"#)).is_some());
    for claims in [
        r#"{"revision":3}"#,
        r#"{"username":"u"}"#,
        r#"{"username":1,"revision":3}"#,
        r#"{"username":"u","revision":"3"}"#,
        r#"{"username":"u","revision":-3}"#,
        r#"{"username":"u","revision":1e300}"#,
        r#"{"username":"u","revision":3,"exp":1}"#,
        r#"{"username":"u","revision":3,"exp":"soon"}"#,
        r#"{"username":"u","revision":3,"nbf":99999999999}"#,
        "[]",
        "",
    ] {
        assert_eq!(jwt.verify(&token(header, claims)), None, "{claims}");
    }
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":["HS384"]}"#, "{}", ""] {
        assert_eq!(jwt.verify(&token(header, good)), None, "{header}");
    }
    assert_eq!(hmac_with("other").verify(&token(header, good)), None);
    for text in ["", ".", "..", "...", "a.b.c", "a.b", &"x".repeat(1 << 20)] {
        assert_eq!(jwt.verify(text), None);
    }
    let name = "with \" and \\ and \u{e9}";
    let signed = jwt.sign(name, 9).expect("a token");
    assert_eq!(jwt.verify(&signed).expect("our own").user, name);
}

/// A text of many dots was split at each of them, and cost many times its length.
#[test]
fn cve_2025_30204_dots() {
    let jwt = hmac_with("secret");
    for dots in [3, 100, 1 << 20] {
        assert_eq!(jwt.verify(&".".repeat(dots)), None);
        assert_eq!(jwt.verify(&"a.".repeat(dots)), None);
    }
}

#[test]
fn keys_that_do_not_fit_are_refused_by_name() {
    let refusal = |method: &str, private: Option<&str>, public: Option<&str>| {
        let (private, public) = (private.map(pem), public.map(pem));
        let mut options = vec![("sign-method", method)];
        options.extend(private.as_deref().map(|path| ("priv-key", path)));
        options.extend(public.as_deref().map(|path| ("pub-key", path)));
        from(&options).err().unwrap_or_default()
    };
    for (method, private, public, text) in [
        ("ES256", Some("p384-sec1"), None, "ES256 needs another kind of key"),
        ("ES256", None, Some("rsa-public"), "ES256 needs another kind of key"),
        ("RS256", Some("ed25519"), None, "RS256 needs another kind of key"),
        ("EdDSA", None, None, "missing key data"),
        ("HS256", None, Some("rsa-public"), "missing key data"),
        ("RS256", Some("rsa-pkcs1"), Some("rsa-public-other"), "don't match"),
        ("ES512", Some("p521-sec1"), Some("p521-public-other"), "don't match"),
        ("RS256", Some("rsa-1024"), None, "2048"),
        ("PS256", None, Some("rsa-1024-public"), "pub-key: an RSA key must have 2048 bits"),
        ("RS256", Some("rsa-public"), None, "not a private key"),
        ("RS256", None, Some("p256-sec1"), "not a public key"),
        ("RS256", Some("encrypted"), None, "encrypted"),
        ("RS256", Some("../suite/mod.rs"), None, "No such file"),
    ] {
        let found = refusal(method, private, public);
        assert!(found.contains(text), "{method} {private:?} {public:?}: {found}");
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).expect("short")], content].concat()
}

/// A file with the number of a curve's key and nothing else of it.
fn without_public_half(number: &[u8], curve: &[u8]) -> tempfile::NamedTempFile {
    let algorithm = [der(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]), der(0x06, curve)].concat();
    let key = der(0x30, &[der(0x02, &[1]), der(0x04, number)].concat());
    let info = der(0x30, &[der(0x02, &[0]), der(0x30, &algorithm), der(0x04, &key)].concat());
    let text = base64::engine::general_purpose::STANDARD.encode(info);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
        .expect("written");
    file
}

/// Some tools write keys of curves so. Zeros in front of the number may be there or not.
#[test]
fn the_public_half_of_a_curves_key_need_not_be_written() {
    const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
    for (method, private, public, curve) in [
        ("ES256", "p256-sec1", "p256-public", &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07][..]),
        ("ES384", "p384-sec1", "p384-public", &[0x2b, 0x81, 0x04, 0x00, 0x22]),
        ("ES512", "p521-sec1", "p521-public", P521),
    ] {
        let whole = keys::first_block(&std::fs::read(pem(private)).expect("a file")).expect("PEM");
        let number = keys::private_key(&whole).expect("a key").bytes;
        let short = number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        for number in [&number[..], &short, &[&[0, 0], &number[..]].concat()] {
            let file = without_public_half(number, curve);
            let (private, public) = (file.path().to_string_lossy(), pem(public));
            let options = [("sign-method", method), ("priv-key", &private[..]), ("pub-key", &public[..])];
            let signer = from(&options).unwrap_or_else(|error| panic!("{method}: {error}"));
            let token = signer.sign("alice", 7).expect("a token");
            assert!(from(&[options[0], options[2]]).expect("a key").verify(&token).is_some(), "{method}");
        }
    }
    for wrong in [&[][..], &[0; 66], &[0xff; 66], &[1; 67], &[1; 100]] {
        let file = without_public_half(wrong, P521);
        let error = from(&[("sign-method", "ES512"), ("priv-key", &file.path().to_string_lossy())]);
        let error = error.err().expect("refused");
        assert!(error.starts_with("priv-key: "), "{wrong:?}: {error}");
    }
}

#[test]
fn damaged_keys_are_refused_and_never_panic() {
    for (name, private, public) in PAIRS {
        let method = METHODS.iter().find(|method| method.name == name).expect("a method");
        let private = keys::first_block(&std::fs::read(pem(private)).expect("a file")).expect("PEM");
        let public = keys::first_block(&std::fs::read(pem(public)).expect("a file")).expect("PEM");
        for length in 0..private.len() {
            assert!(keys::private_key(&private[..length]).is_err());
        }
        for length in 0..public.len().min(400) {
            drop(keys::public_key(&public[..length]));
        }
        for position in 0..private.len().min(200) {
            let mut damaged = private.clone();
            damaged[position] ^= 0x41;
            drop(keys::private_key(&damaged).map(|key| signing_key(method, &key)));
            let mut damaged = public.clone();
            let position = position % damaged.len();
            damaged[position] ^= 0x41;
            drop(keys::public_key(&damaged).map(|key| verifying_key(method, &key)));
        }
    }
    for text in [&b""[..], b"\xff", b"-----BEGIN X-----", b"-----BEGIN X-----\n!\n-----END X-----"] {
        assert!(keys::first_block(text).is_err());
    }
}
