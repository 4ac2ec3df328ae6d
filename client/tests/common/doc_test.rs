/// What the examples of the documentation run in: a client of a member started for the example.
fn doc_test(example: impl AsyncFnOnce(kvorum_client::Client) -> Result<(), Box<dyn std::error::Error>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let member = kvorum_server::embed::start(folder.path()).expect("a member");
    let outcome = runtime.block_on(async {
        let client = kvorum_client::Client::connect([member.client_url()]).await?;
        example(client).await
    });
    outcome.expect("the example works");
}
