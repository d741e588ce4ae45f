"""Images: folders, the hub, Fashion-MNIST, augmentation."""
