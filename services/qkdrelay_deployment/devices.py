"""Folders of a deployment for what QKD devices know KMEs by: certificates and keys of the devices' makers, not ours."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from stat import S_IMODE, S_ISREG

from qkdrelay.network.topology import Topology
from qkdrelay.service.tls_files import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from qkdrelay_deployment.compose import DEVICES_FOLDER, device_files
from qkdrelay_deployment.files import make_folder


def provision_devices(topology: Topology, root: Path, kmes: Collection[str]) -> list[Path]:
    """Make a folder for each end, at one of ``kmes``, of a link with devices; return the files that they lack. OSError.

    What is there is kept. Folders of links that are no more stay, as their secrets would in ``.env``.
    """
    ends = [end for a, b in topology.links_of("etsi014") for end in ((a, b), (b, a)) if end[0] in kmes]
    # What a KME's container mounts is for its user to read, behind a folder that is its owner's alone.
    folders = [root / device_files(kme, peer) for kme, peer in ends]
    for folder in folders:
        make_folder(root / DEVICES_FOLDER, mode=0o700)
        make_folder(folder.parent, mode=0o755)
        make_folder(folder, mode=0o755)
    files = [folder / name for folder in folders for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)]
    return [file for file in files if not _made_readable(file)]


def _made_readable(file: Path) -> bool:
    """Let a container's user read a file, which is left alone if it has more names, elsewhere; return if it is there.

    A link is no file: it leads nowhere in the container.
    """
    try:
        stat = file.lstat()
    except FileNotFoundError:
        return False
    if not S_ISREG(stat.st_mode):
        return False
    if S_IMODE(stat.st_mode) != 0o644 and stat.st_nlink == 1:
        file.chmod(0o644)
    return True
