//! `--discovery-srv`: the members' addresses from SRV records, as clientv3's tools look for them. It asks the system's
//! name servers, and decides nothing about TLS but which scheme an address gets.
//!
//! Source of the rules: etcd `client/pkg/srv/srv.go` (GetClient) and `etcdctl/ctlv3/command/global.go`.

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::RecordType;

use crate::command::{EXIT_ERROR, Failure};
use crate::golang;

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Discovery<'a> {
    pub domain: &'a str,
    /// What the service's name ends with, behind a dash; may be empty.
    pub suffix: &'a str,
    /// Whether members that speak no TLS count.
    pub is_insecure_allowed: bool,
}

impl Discovery<'_> {
    /// The endpoints of the domain, those with TLS first; none if none that may be used is there.
    ///
    /// # Errors
    /// When neither kind of record can be found.
    pub fn endpoints(self) -> Result<Vec<String>, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(EXIT_ERROR, format!("no runtime: {error}")))?;
        runtime.block_on(async {
            let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
            let resolver = resolver.map_err(|error| Failure::new(EXIT_ERROR, format!("name servers: {error}")))?;
            self.ask(&resolver).await
        })
    }

    async fn ask(self, resolver: &TokioResolver) -> Result<Vec<String>, Failure> {
        let secure = look_up(resolver, &self.name("etcd-client-ssl"), "https").await;
        let insecure = look_up(resolver, &self.name("etcd-client"), "http").await;
        let found = match (secure, insecure) {
            (Err(secure), Err(insecure)) => {
                return Err(Failure::new(EXIT_ERROR, format!("dns lookup errors: {secure} and {insecure}")));
            }
            (secure, insecure) => [secure.unwrap_or_default(), insecure.unwrap_or_default()].concat(),
        };
        Ok(found.into_iter().filter(|endpoint| self.may_be_used(endpoint)).collect())
    }

    fn name(self, service: &str) -> String {
        let Self { domain, suffix, .. } = self;
        let dash = if suffix.is_empty() { "" } else { "-" };
        format!("_{service}{dash}{suffix}._tcp.{}.", domain.trim_end_matches('.'))
    }

    fn may_be_used(self, endpoint: &str) -> bool {
        let may = self.is_insecure_allowed || !endpoint.starts_with("http://");
        if !may {
            eprintln!("ignoring discovered insecure endpoint {}", golang::quote(endpoint.as_bytes()));
        }
        may
    }
}

/// The addresses that a name's records tell, the most wanted ones first.
async fn look_up(resolver: &TokioResolver, name: &str, scheme: &str) -> Result<Vec<String>, String> {
    let answer = resolver.lookup(name, RecordType::SRV).await.map_err(|error| format!("lookup {name}: {error}"))?;
    let mut records: Vec<_> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(service) => Some(service.clone()),
            _ => None,
        })
        .collect();
    records.sort_by_key(|service| (service.priority, std::cmp::Reverse(service.weight)));
    let host = |target: String| target.trim_end_matches('.').to_owned();
    Ok(records.iter().map(|record| format!("{scheme}://{}:{}", host(record.target.to_string()), record.port)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use hickory_resolver::Resolver;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::SRV;
    use hickory_resolver::proto::rr::{Name, Record};
    use tokio::net::UdpSocket;

    use super::*;

    type Service = (u16, u16, u16, &'static str);

    /// A name server that knows these services: priority, weight, port and target.
    async fn name_server(known: &[(&'static str, &[Service])]) -> SocketAddr {
        let known: HashMap<&str, Vec<Service>> =
            known.iter().map(|(name, services)| (*name, services.to_vec())).collect();
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = socket.local_addr().expect("it is bound");
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok((bytes, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..bytes]).expect("a resolver asks properly");
                let name = question.queries[0].name().clone();
                let mut answer = question.into_response();
                match known.get(name.to_ascii().as_str()) {
                    Some(services) => services.iter().for_each(|&(priority, weight, port, target)| {
                        let target = Name::from_ascii(target).expect("a name");
                        let data = RData::SRV(SRV::new(priority, weight, port, target));
                        answer.add_answer(Record::from_rdata(name.clone(), 60, data));
                    }),
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                socket.send_to(&answer.to_vec().expect("it fits"), from).await.ok();
            }
        });
        address
    }

    fn resolver(server: SocketAddr) -> TokioResolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let servers = vec![NameServerConfig::new(server.ip(), true, vec![connection])];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        Resolver::builder_with_config(config, TokioRuntimeProvider::default()).build().expect("it is complete")
    }

    const SECURE: (&str, &[Service]) = (
        "_etcd-client-ssl._tcp.example.org.",
        &[(20, 0, 2379, "c.example.org."), (10, 1, 2381, "b.example.org."), (10, 9, 2379, "a.example.org.")],
    );
    const PLAIN: (&str, &[Service]) = ("_etcd-client._tcp.example.org.", &[(0, 0, 2379, "d.example.org.")]);
    const NAMED: (&str, &[Service]) = ("_etcd-client-blue._tcp.example.org.", &[(0, 0, 1, "e.example.org.")]);

    async fn find(
        known: &[(&'static str, &[Service])],
        suffix: &str,
        is_insecure_allowed: bool,
    ) -> Result<Vec<String>, Failure> {
        let server = name_server(known).await;
        Discovery { domain: "example.org", suffix, is_insecure_allowed }.ask(&resolver(server)).await
    }

    #[tokio::test]
    async fn members_with_tls_come_first_and_the_most_wanted_before_others() {
        let found = find(&[SECURE, PLAIN], "", true).await.expect("they are known");
        let [a, b, c] = ["https://a.example.org:2379", "https://b.example.org:2381", "https://c.example.org:2379"];
        assert_eq!(found, [a, b, c, "http://d.example.org:2379"]);
    }

    #[tokio::test]
    async fn one_kind_of_record_is_enough_and_the_suffix_is_part_of_the_name() {
        assert_eq!(find(&[PLAIN], "", true).await.expect("it is known"), ["http://d.example.org:2379"]);
        assert_eq!(find(&[PLAIN, NAMED], "blue", true).await.expect("it is known"), ["http://e.example.org:1"]);
    }

    #[tokio::test]
    async fn insecure_members_are_passed_over_if_asked_for() {
        assert_eq!(find(&[PLAIN], "", false).await.expect("it is known"), Vec::<String>::new());
        assert_eq!(find(&[SECURE, PLAIN], "", false).await.expect("they are known").len(), 3);
    }

    #[tokio::test]
    async fn a_domain_without_records_is_an_error_that_names_what_was_asked() {
        let failure = find(&[NAMED], "", true).await.expect_err("nothing is known");
        let text = format!("{failure:?}");
        assert!(text.contains("dns lookup errors: lookup _etcd-client-ssl._tcp.example.org."), "{text}");
        assert!(text.contains("lookup _etcd-client._tcp.example.org."), "{text}");
    }
}
