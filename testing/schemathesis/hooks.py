"""Steers schemathesis to what is there, and away from what a test must not do.

Names and keys of paths are mostly made up, so some are put in the place of known ones. Jobs that it makes run nothing
but `true`: whatever else it thinks of as a command would be run by a shell of this machine.
"""

import schemathesis

KNOWN = {"name": "report", "job": "report"}
HARMLESS = {"command": "true", "fetch": [], "uris": [], "schedule": "R/2099-01-01T00:00:00Z/P1D"}
# An image has a command of its own.
NEVER = {"container"}
DEFINITIONS = ("/iso8601", "/dependency", "/v1/jobs/{name}", "/v1/apply")


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    for key, known in KNOWN.items():
        if path_parameters and key in path_parameters and len(str(path_parameters[key])) % 3:
            path_parameters[key] = known
    return path_parameters


def harmless(definition):
    if not isinstance(definition, dict):
        return definition
    definition = {key: value for key, value in definition.items() if key not in NEVER}
    if len(definition) % 2:
        # As it came, but without what could be run.
        return {key: value for key, value in definition.items() if key not in HARMLESS}
    return {"name": "made-up", **definition, **HARMLESS}


@schemathesis.hook
def map_body(context, body):
    path = context.operation.path
    if not path.endswith(DEFINITIONS) or not isinstance(body, dict):
        return body
    if path == "/v1/apply" and isinstance(body.get("jobs"), list):
        return {**body, "jobs": [harmless(job) for job in body["jobs"]]}
    return harmless(body)
