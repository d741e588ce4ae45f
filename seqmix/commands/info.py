"""``seqmix info``: versions, device, and which kernels run here."""

from seqmix.commands._function import call
from seqmix.commands.tables import print_table
from seqmix.environment import environment
from seqmix.ops import explain, native, tune_allocator


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(show, command, argv)


def show() -> None:
    """Show versions, device, threads, allocator, and for each op which kernel runs and why another does not."""
    compiled = native.problem() or native.describe()
    facts = {
        **environment(),
        "compiled": compiled,
        "allocator": "keeps freed memory" if tune_allocator() else "as the system has it",
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {', '.join(value) or 'none' if isinstance(value, list) else value}")
    print_table("kernels", explain())
