"""The names of each array of AlexNet, VGG and ResNet: torchvision's, ours, and how one becomes the other."""

LAYOUTS = {"conv": (2, 3, 1, 0), "linear": (1, 0), "same": None}


def norm(theirs, ours):
    names = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))
    return [(f"{theirs}.{a}", f"{ours}/{b}", "same") for a, b in names]


def layer(theirs, ours, layout):
    return [(f"{theirs}.weight", f"{ours}/kernel", layout), (f"{theirs}.bias", f"{ours}/bias", "same")]


def alexnet():
    rules = [r for i, j in enumerate((0, 3, 6, 8, 10)) for r in layer(f"features.{j}", f"convs/{i}", "conv")]
    rules += [r for i, j in enumerate((1, 4)) for r in layer(f"classifier.{j}", f"hidden/{i}", "linear")]
    return rules + layer("classifier.6", "head", "linear")


def vgg(convs, batch_norm):
    rules, j = [], 0
    for i, n in enumerate(convs):
        for k in range(n):
            rules += layer(f"features.{j}", f"stages/{i}/{k}/conv", "conv")
            rules += norm(f"features.{j + 1}", f"stages/{i}/{k}/norm") if batch_norm else []
            j += 3 if batch_norm else 2
        j += 1
    rules += layer("classifier.0", "hidden/0", "linear") + layer("classifier.3", "hidden/1", "linear")
    return rules + layer("classifier.6", "head", "linear")


def conv_norm(theirs_conv, theirs_norm, ours):
    return [(f"{theirs_conv}.weight", f"{ours}/conv/kernel", "conv"), *norm(theirs_norm, f"{ours}/norm")]


def resnet(blocks, convs, shortcuts):
    rules = conv_norm("conv1", "bn1", "stem")
    for i, n in enumerate(blocks):
        for j in range(n):
            theirs, ours = f"layer{i + 1}.{j}", f"stages/{i}/{j}"
            for k in range(convs):
                rules += conv_norm(f"{theirs}.conv{k + 1}", f"{theirs}.bn{k + 1}", f"{ours}/convs/{k}")
            if not j and (i or shortcuts):
                rules += conv_norm(f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}/shortcut")
    return rules + layer("fc", "head", "linear")


def huggingface_resnet(blocks, convs, shortcuts):
    def unit(theirs, ours):
        return conv_norm(f"{theirs}.convolution", f"{theirs}.normalization", ours)

    rules = unit("resnet.embedder.embedder", "stem")
    for i, n in enumerate(blocks):
        for j in range(n):
            theirs, ours = f"resnet.encoder.stages.{i}.layers.{j}", f"stages/{i}/{j}"
            for k in range(convs):
                rules += unit(f"{theirs}.layer.{k}", f"{ours}/convs/{k}")
            if not j and (i or shortcuts):
                rules += unit(f"{theirs}.shortcut", f"{ours}/shortcut")
    return rules + layer("classifier.1", "head", "linear")


def imported(rules, weights):
    """Arrays of ours by name, from theirs; every one of theirs is used."""
    assert {theirs for theirs, *_ in rules} == {n for n in weights if not n.endswith("num_batches_tracked")}
    return {
        ours: weights[theirs] if LAYOUTS[layout] is None else weights[theirs].transpose(LAYOUTS[layout])
        for theirs, ours, layout in rules
    }
