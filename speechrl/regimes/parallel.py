"""Several processes on one run: whole replicas whose gradients the regime itself sums, once a step."""

from pytorch_lightning.strategies import DDPStrategy


class Replicas(DDPStrategy):
    """Lightning's processes and communication without its DistributedDataParallel wrapper.

    The wrapper averages gradients in every backward pass it sees; a step here has as many as it has parts, and the
    parts already carry the share that makes their sum the step's. So nothing is wrapped, and the regime sums once.
    """

    def configure_ddp(self) -> None:
        """Leaves the module as it is."""
