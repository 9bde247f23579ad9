"""Which clients a runtime lets join: the compatibility window."""

from sim.contract.frames import Compatibility
from sim.contract.settings import RuntimeSettings

_BUILD_LENGTH = len("20260101T000000Z")


def incompatibility(settings: RuntimeSettings, told: Compatibility, query: Compatibility) -> str:
    """The code of a join's refusal, empty for a client that fits; what the join leaves out, the URL's query may say."""
    if (told.protocol_version or query.protocol_version) != settings.protocol_version:
        return "unsupported_protocol_version"
    schema = query.schema_version if told.schema_version is None else told.schema_version
    if str(schema) != str(settings.schema_version):
        return "unsupported_schema_version"
    build = told.client_build_id or query.client_build_id
    if len(build) != _BUILD_LENGTH or build[8] != "T" or build[-1] != "Z":
        return "invalid_client_build"
    if build < settings.min_client_build:
        return "upgrade_required"
    return "unsupported_client_build" if build > settings.max_client_build else ""
