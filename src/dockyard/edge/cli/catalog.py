"""Every command of the client, as a table.

Owns: names, aliases, usage lines, one-line descriptions, how many arguments each takes, what completes them, and which
module carries a command out (`module:attribute` under `edge.cli.commands`, imported only when the command runs).
"""

from __future__ import annotations

ANY = 1 << 30


class Entry:
    """One command.

    `path`: "container ls"; `body`: "ps:ls"; `usage`: behind the command's name; `aliases`: other paths;
    `options_first`: flags end at the first argument; `complete`: what completes each argument, the last one goes on.
    """

    __slots__ = ("aliases", "body", "complete", "least", "most", "options_first", "path", "summary", "usage")

    def __init__(
        self,
        path: str,
        body: str,
        summary: str,
        usage: str,
        least: int = 0,
        most: int = ANY,
        aliases: tuple[str, ...] = (),
        options_first: bool = False,
        complete: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.body = body
        self.summary = summary
        self.usage = usage
        self.least = least
        self.most = most
        self.aliases = aliases
        self.options_first = options_first
        self.complete = complete

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)


MANY_CONTAINERS = "[OPTIONS] CONTAINER [CONTAINER...]"
COMMON = ("run", "exec", "ps", "build", "images", "version", "info")
GROUPS = {
    "builder": "Manage builds",
    "completion": "Generate the autocompletion script for a shell",
    "container": "Manage containers",
    "image": "Manage images",
    "imagetools": "Work on images in a registry",
    "manifest": "Manage manifests and manifest lists",
    "network": "Manage networks",
    "registry": "Serve and look after a registry",
    "system": "Manage Dockyard",
    "volume": "Manage volumes",
}

ENTRIES = (
    Entry(
        "container attach",
        "attach:attach",
        "Attach local standard input, output, and error streams to a running container",
        "[OPTIONS] CONTAINER",
        1,
        1,
        ("attach",),
        complete=("running",),
    ),
    Entry(
        "container create",
        "run:create",
        "Create a new container",
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        1,
        aliases=("create",),
        options_first=True,
        complete=("image", "file"),
    ),
    Entry(
        "container exec",
        "exec:exec_",
        "Execute a command in a running container",
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        2,
        aliases=("exec",),
        options_first=True,
        complete=("running", "file"),
    ),
    Entry(
        "container inspect",
        "inspect:container",
        "Display detailed information on one or more containers",
        MANY_CONTAINERS,
        1,
        complete=("container",),
    ),
    Entry(
        "container kill",
        "lifecycle:kill",
        "Kill one or more running containers",
        MANY_CONTAINERS,
        1,
        aliases=("kill",),
        complete=("running",),
    ),
    Entry(
        "container logs",
        "logs:logs",
        "Fetch the logs of a container",
        "[OPTIONS] CONTAINER",
        1,
        1,
        ("logs",),
        complete=("container",),
    ),
    Entry(
        "container ls",
        "ps:ls",
        "List containers",
        "[OPTIONS]",
        0,
        0,
        ("container list", "container ps", "ps"),
    ),
    Entry(
        "container pause",
        "lifecycle:pause",
        "Pause all processes within one or more containers",
        "CONTAINER [CONTAINER...]",
        1,
        aliases=("pause",),
        complete=("running",),
    ),
    Entry(
        "container port",
        "port:port",
        "List port mappings or a specific mapping for the container",
        "CONTAINER [PRIVATE_PORT[/PROTO]]",
        1,
        2,
        ("port",),
        complete=("running", ""),
    ),
    Entry(
        "container prune",
        "prune:containers",
        "Remove all stopped containers",
        "[OPTIONS]",
        0,
        0,
    ),
    Entry(
        "container rename",
        "lifecycle:rename",
        "Rename a container",
        "CONTAINER NEW_NAME",
        2,
        2,
        ("rename",),
        complete=("container", ""),
    ),
    Entry(
        "container restart",
        "lifecycle:restart",
        "Restart one or more containers",
        MANY_CONTAINERS,
        1,
        aliases=("restart",),
        complete=("container",),
    ),
    Entry(
        "container rm",
        "lifecycle:remove",
        "Remove one or more containers",
        MANY_CONTAINERS,
        1,
        aliases=("container remove", "rm"),
        complete=("container",),
    ),
    Entry(
        "container run",
        "run:run",
        "Create and run a new container from an image",
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        1,
        aliases=("run",),
        options_first=True,
        complete=("image", "file"),
    ),
    Entry(
        "container start",
        "start:start",
        "Start one or more stopped containers",
        MANY_CONTAINERS,
        1,
        aliases=("start",),
        complete=("stopped",),
    ),
    Entry(
        "container stats",
        "stats:stats",
        "Display a live stream of container(s) resource usage statistics",
        "[OPTIONS] [CONTAINER...]",
        aliases=("stats",),
        complete=("container",),
    ),
    Entry(
        "container stop",
        "lifecycle:stop",
        "Stop one or more running containers",
        MANY_CONTAINERS,
        1,
        aliases=("stop",),
        complete=("running",),
    ),
    Entry(
        "container top",
        "top:top",
        "Display the running processes of a container",
        "CONTAINER [ps OPTIONS]",
        1,
        aliases=("top",),
        options_first=True,
        complete=("running", ""),
    ),
    Entry(
        "container unpause",
        "lifecycle:unpause",
        "Unpause all processes within one or more containers",
        "CONTAINER [CONTAINER...]",
        1,
        aliases=("unpause",),
        complete=("running",),
    ),
    Entry(
        "container wait",
        "lifecycle:wait",
        "Block until one or more containers stop, then print their exit codes",
        "CONTAINER [CONTAINER...]",
        1,
        aliases=("wait",),
        complete=("running",),
    ),
    Entry("builder df", "builder:df", "Show disk usage of the build cache", "[OPTIONS]", 0, 0, ("builder du",)),
    Entry("builder prune", "builder:prune", "Remove build cache", "[OPTIONS]", 0, 0),
    Entry(
        "image build",
        "build:build",
        "Build an image from a Dockerfile",
        "[OPTIONS] PATH | URL | -",
        1,
        1,
        ("build", "builder build"),
        complete=("file",),
    ),
    Entry(
        "image bootstrap",
        "bootstrap:bootstrap",
        "Make a base image from a distribution's package mirror",
        "[OPTIONS] debian:SUITE|ubuntu:SUITE",
        1,
        1,
    ),
    Entry(
        "image history",
        "history:history",
        "Show the history of an image",
        "[OPTIONS] IMAGE",
        1,
        1,
        ("history",),
        complete=("image",),
    ),
    Entry(
        "image import",
        "archive:import_",
        "Import the contents from a tarball to create a filesystem image",
        "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        1,
        2,
        ("import",),
        complete=("file", ""),
    ),
    Entry(
        "image inspect",
        "inspect:image",
        "Display detailed information on one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        1,
        complete=("image",),
    ),
    Entry("image load", "archive:load", "Load an image from a tar archive or STDIN", "[OPTIONS]", 0, 0, ("load",)),
    Entry(
        "image ls",
        "images:ls",
        "List images",
        "[OPTIONS] [REPOSITORY[:TAG]]",
        0,
        1,
        ("image list", "images"),
        complete=("image",),
    ),
    Entry("image prune", "prune:images", "Remove unused images", "[OPTIONS]", 0, 0),
    Entry(
        "image pull",
        "registries:pull",
        "Download an image from a registry",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        1,
        1,
        ("pull",),
    ),
    Entry(
        "image push",
        "registries:push",
        "Upload an image to a registry",
        "[OPTIONS] NAME[:TAG]",
        1,
        1,
        ("push",),
        complete=("image",),
    ),
    Entry(
        "image rm",
        "images:remove",
        "Remove one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        1,
        aliases=("image remove", "rmi"),
        complete=("image",),
    ),
    Entry(
        "image save",
        "archive:save",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
        "[OPTIONS] IMAGE [IMAGE...]",
        1,
        aliases=("save",),
        complete=("image",),
    ),
    Entry(
        "image tag",
        "images:tag",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        2,
        2,
        ("tag",),
        complete=("image", ""),
    ),
    Entry(
        "imagetools create",
        "manifest:tools_create",
        "Create a new image out of others, in the registry",
        "[OPTIONS] SOURCE [SOURCE...]",
        1,
    ),
    Entry(
        "imagetools inspect",
        "manifest:tools_inspect",
        "Show details of an image in a registry",
        "[OPTIONS] NAME",
        1,
        1,
    ),
    Entry(
        "inspect",
        "inspect:anything",
        "Return low-level information on objects of any kind",
        "[OPTIONS] NAME|ID [NAME|ID...]",
        1,
        complete=("anything",),
    ),
    Entry("login", "login:login", "Authenticate to a registry", "[OPTIONS] [SERVER]", 0, 1),
    Entry("logout", "login:logout", "Log out from a registry", "[SERVER]", 0, 1),
    Entry(
        "manifest annotate",
        "manifest:annotate",
        "Add additional information to a local image manifest",
        "[OPTIONS] MANIFEST_LIST MANIFEST",
        2,
        2,
    ),
    Entry(
        "manifest create",
        "manifest:create",
        "Create a local manifest list for annotating and pushing to a registry",
        "[OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]",
        2,
    ),
    Entry(
        "manifest inspect",
        "manifest:inspect",
        "Display an image manifest, or manifest list",
        "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        1,
        2,
    ),
    Entry("manifest push", "manifest:push", "Push a manifest list to a repository", "[OPTIONS] MANIFEST_LIST", 1, 1),
    Entry(
        "manifest rm",
        "manifest:remove",
        "Delete one or more manifest lists from local storage",
        "MANIFEST_LIST [MANIFEST_LIST...]",
        1,
    ),
    Entry(
        "network inspect",
        "inspect:network",
        "Display detailed information on one or more networks",
        "[OPTIONS] NETWORK [NETWORK...]",
        1,
        complete=("network",),
    ),
    Entry("network ls", "networks:ls", "List networks", "[OPTIONS]", 0, 0, ("network list",)),
    Entry("search", "registries:search", "Search a registry for images", "[OPTIONS] TERM", 1, 1),
    Entry("registry check", "registry:check", "Verify every tag, manifest and blob of a registry", "[OPTIONS]", 0, 0),
    Entry("registry gc", "registry:collect", "Delete what no image of a registry needs", "[OPTIONS]", 0, 0),
    Entry("registry serve", "registry:serve", "Serve images to any OCI client", "[OPTIONS]", 0, 0),
    Entry("system df", "df:df", "Show disk usage", "[OPTIONS]", 0, 0),
    Entry("system events", "events:events", "Get real time events from the server", "[OPTIONS]", 0, 0, ("events",)),
    Entry("system info", "info:info", "Display system-wide information", "[OPTIONS]", 0, 0, ("info",)),
    Entry("system install", "install:install", "Write a systemd unit and socket for the daemon", "[OPTIONS]", 0, 0),
    Entry("volume create", "volumes:create", "Create a volume", "[OPTIONS] [VOLUME]", 0, 1),
    Entry(
        "volume inspect",
        "inspect:volume",
        "Display detailed information on one or more volumes",
        "[OPTIONS] VOLUME [VOLUME...]",
        1,
        complete=("volume",),
    ),
    Entry("volume ls", "volumes:ls", "List volumes", "[OPTIONS]", 0, 0, ("volume list",)),
    Entry("volume prune", "volumes:prune", "Remove unused local volumes", "[OPTIONS]", 0, 0),
    Entry(
        "volume rm",
        "volumes:remove",
        "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
        "[OPTIONS] VOLUME [VOLUME...]",
        1,
        aliases=("volume remove",),
        complete=("volume",),
    ),
    Entry("volume update", "volumes:update", "Update a volume (cluster volumes only)", "[OPTIONS] VOLUME", 1, 1),
    Entry("version", "version:version", "Show the version of client and daemon", "[OPTIONS]", 0, 0),
    Entry("completion bash", "completion:bash", "Generate the autocompletion script for bash", "", 0, 0),
    Entry("completion fish", "completion:fish", "Generate the autocompletion script for fish", "", 0, 0),
    Entry("completion zsh", "completion:zsh", "Generate the autocompletion script for zsh", "", 0, 0),
)


def find(words: list[str]) -> tuple[Entry | None, int]:
    """The command that `words` begin with, and how many words name it; (None, n): the first n are no command."""
    path = " ".join(words[:2]) if words and words[0] in GROUPS else words[0] if words else ""
    for entry in ENTRIES:
        if path == entry.path or path in entry.aliases:
            return entry, path.count(" ") + 1
    return None, path.count(" ") + 1
