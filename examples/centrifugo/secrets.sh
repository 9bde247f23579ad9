# The secrets of the platform and of Centrifugo, here those of `stormgate target up centrifugo`. Yours are in a vault.
export PLATFORM_SESSION=session-of-a-tester
export CENTRIFUGO_API_KEY="an API key of this test server"
export CENTRIFUGO_TOKEN_KEY="a token key of this test server, which is public"
export LAST_GOOD_PORT=8611   # no secret: where the previous revision is
