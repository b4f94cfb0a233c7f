using System.Globalization;
using Native.Tools.DemoModel;
using TorchSharp;
using static TorchSharp.torch;

// The recipe, step by step; every step reads what the one before left in the directory.
//   corpus DIR [COUNT]     prints documents
//   tokenizer DIR          vocabulary.txt
//   train DIR [--steps N] [--minutes M] [--start N] ...   checkpoint.bin, loss.csv, demo.gguf; with --start from checkpoint.bin, on documents not seen before
//   export DIR             demo.gguf from checkpoint.bin
//   evaluate DIR           held-out perplexity
//   complete DIR TEXT      the float32 network's greedy answer to a user's TEXT, to compare the export with
CultureInfo.CurrentCulture = CultureInfo.DefaultThreadCurrentCulture = CultureInfo.InvariantCulture;
const int seed = 20261124, vocabulary = 1536;
string command = args.Length > 1 ? args[0] : "help", directory = args.Length > 1 ? args[1] : ".";

switch (command)
{
    case "corpus":
        var corpus = new Corpus(seed, heldOut: false);
        for (int i = 0; i < int.Parse(args.ElementAtOrDefault(2) ?? "10"); i++) Console.WriteLine(corpus.Next().Render() + "\n----");
        return 0;

    case "tokenizer":
        Directory.CreateDirectory(directory);
        var source = new Corpus(seed, heldOut: false);
        // Names and rare words must not crowd out common ones, so the vocabulary is learnt from plenty.
        Tokenizer.Train(Enumerable.Range(0, 40000).SelectMany(_ => Texts(source.Next())), vocabulary).Save(Vocabulary());
        return Statistics();

    case "train":
        return Train();

    case "export":
        Export.Save(LoadModel(), Tokenizer.Load(Vocabulary()), Path.Combine(directory, "demo.gguf"));
        return 0;

    case "evaluate":
        double loss = Trainer.HeldOutLoss(LoadModel(), Tokenizer.Load(Vocabulary()), HeldOut(2000));
        Console.WriteLine($"held out: {loss:F4} nats per token, perplexity {Math.Exp(loss):F3}");
        return 0;

    case "complete":
        Console.WriteLine(Complete(args[2]));
        return 0;

    default:
        Console.Error.WriteLine("usage: demo-model corpus|tokenizer|train|export|evaluate|complete DIRECTORY");
        return 2;
}

string Vocabulary() => Path.Combine(directory, "vocabulary.txt");
IEnumerable<string> Texts(Example example) => example.Story is { } story ? [story] : example.Turns.Select(t => t.Text);

List<Example> HeldOut(int count)
{
    var heldOut = new Corpus(seed + 1, heldOut: true);
    return [.. Enumerable.Range(0, count).Select(_ => heldOut.Next())];
}

Shape NetworkShape() => new(Tokenizer.Load(Vocabulary()).Tokens.Count, 1024);

Llama LoadModel()
{
    var model = new Llama(NetworkShape());
    model.load(Path.Combine(directory, "checkpoint.bin"));
    return model;
}

int Statistics()
{
    Tokenizer tokenizer = Tokenizer.Load(Vocabulary());
    var sample = new Corpus(seed, heldOut: false);
    long tokens = 0, characters = 0, longest = 0;
    var distinct = new HashSet<string>();
    const int documents = 20000;
    for (int i = 0; i < documents; i++)
    {
        Example example = sample.Next();
        int length = example.Encode(tokenizer).Ids.Count;
        tokens += length;
        longest = Math.Max(longest, length);
        foreach (string text in Texts(example))
        {
            characters += text.Length;
            distinct.Add(text);
            if (tokenizer.Decode(tokenizer.Encode(text)) != text) throw new InvalidOperationException($"does not decode to itself: {text}");
        }
    }
    Console.WriteLine($"{tokenizer.Tokens.Count} tokens; {documents} documents: {tokens} ids, longest {longest}, {characters / (double)tokens:F2} characters per id, {distinct.Count} distinct texts");
    return 0;
}

int Train()
{
    set_num_threads(int.Parse(Option("threads", Environment.ProcessorCount.ToString())));
    random.manual_seed(seed);
    Tokenizer tokenizer = Tokenizer.Load(Vocabulary());
    var model = new Llama(NetworkShape());
    int start = int.Parse(Option("start", "0"));
    if (start > 0) model.load(Path.Combine(directory, "checkpoint.bin"));
    Console.WriteLine($"{model.parameters().Sum(p => p.numel())} parameters");
    var options = new TrainingOptions(directory);
    options = options with
    {
        Steps = int.Parse(Option("steps", options.Steps.ToString())),
        Minutes = double.Parse(Option("minutes", "Infinity")),
        Batch = int.Parse(Option("batch", options.Batch.ToString())),
        LearningRate = double.Parse(Option("rate", options.LearningRate.ToString(CultureInfo.InvariantCulture)), CultureInfo.InvariantCulture),
        MatrixRate = double.Parse(Option("matrix-rate", options.MatrixRate.ToString(CultureInfo.InvariantCulture)), CultureInfo.InvariantCulture),
        Length = int.Parse(Option("length", options.Length.ToString())),
    };
    new Trainer(model, new TokenStream(new Corpus(seed + 2 * start, heldOut: false), tokenizer), HeldOut(100), tokenizer, options).Run();
    return 0;
}

string Complete(string text)
{
    using var _ = no_grad();
    Llama model = LoadModel();
    Tokenizer tokenizer = Tokenizer.Load(Vocabulary());
    List<long> ids = [tokenizer.ImStartId, .. Ids("user\n" + text), tokenizer.ImEndId, .. Ids("\n"), tokenizer.ImStartId, .. Ids("assistant\n")];
    int start = ids.Count;
    while (ids.Count < model.Shape.Context && (ids.Count == start || ids[^1] < tokenizer.ImStartId))
    {
        using var scope = NewDisposeScope();
        ids.Add(model.forward(tensor(ids.ToArray(), [1, ids.Count]))[0, -1].argmax().ToInt64());
    }
    return tokenizer.Decode(ids.Skip(start).Select(id => (int)id));

    IEnumerable<long> Ids(string part) => tokenizer.Encode(part).Select(id => (long)id);
}

string Option(string name, string fallback)
{
    int at = Array.IndexOf(args, "--" + name);
    return at >= 0 ? args[at + 1] : fallback;
}
