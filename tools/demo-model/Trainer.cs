using System.Diagnostics;
using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;
using F = TorchSharp.torch.nn.functional;

namespace Native.Tools.DemoModel;

internal sealed record TrainingOptions(string Directory)
{
    public int Steps { get; init; } = 9500;
    public double Minutes { get; init; } = double.PositiveInfinity; // the schedule ends at whichever comes first
    public int Batch { get; init; } = 4;
    public int Length { get; init; } = 512;
    public double LearningRate { get; init; } = 3e-3;
    public double MatrixRate { get; init; } = 0.02;
    public int WarmUp { get; init; } = 100;
    public double WeightDecay { get; init; } = 0.05;
    public double ClipNorm { get; init; } = 1;
    public int EvaluateEvery { get; init; } = 400;
}

/// <summary>Muon for the layers' matrices, AdamW for the rest; linear warm-up, full rate for half of the run, then
/// linearly down; clipped gradients; a checkpoint at every evaluation.</summary>
internal sealed class Trainer(Llama model, TokenStream stream, IReadOnlyList<Example> heldOut, Tokenizer tokenizer, TrainingOptions options)
{
    public void Run()
    {
        // The embedding is a table and the norms are vectors: those are AdamW's.
        var muon = new Muon(model.Matrices);
        using var optimizer = optim.AdamW([model.Embedding, .. model.Norms], options.LearningRate, beta1: 0.9, beta2: 0.95, weight_decay: options.WeightDecay);
        using var log = new StreamWriter(Path.Combine(options.Directory, "loss.csv")) { AutoFlush = true };
        log.WriteLine("step,tokens,minutes,schedule,training_loss,heldout_loss");
        var clock = Stopwatch.StartNew();
        double running = 0;
        int counted = 0;
        for (int step = 1; ; step++)
        {
            double progress = Math.Min(1, Math.Max(step / (double)options.Steps, clock.Elapsed.TotalMinutes / options.Minutes));
            double schedule = Math.Min(1, step / (double)options.WarmUp) * Math.Min(1, 2 * (1.02 - progress));
            foreach (var group in optimizer.ParamGroups) group.LearningRate = options.LearningRate * schedule;

            // The last tenth sees rows twice as long, so that long conversations hold together.
            int rows = progress < 0.9 ? options.Batch : options.Batch / 2;
            running += Step(muon, optimizer, schedule, rows, options.Batch * options.Length / rows);
            counted++;
            if (step % 50 == 0) Console.WriteLine($"{step} {clock.Elapsed:hh\\:mm\\:ss} {running / counted:F4} {step * options.Batch * options.Length / clock.Elapsed.TotalSeconds:F0} tokens/s");
            if (step % options.EvaluateEvery != 0 && progress < 1) continue;

            double loss = HeldOutLoss(model, tokenizer, heldOut);
            log.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{step},{(long)step * options.Batch * options.Length},{clock.Elapsed.TotalMinutes:F1},{schedule:F3},{running / counted:F4},{loss:F4}"));
            Console.WriteLine($"step {step}: training {running / counted:F4}, held out {loss:F4}");
            (running, counted) = (0, 0);
            string checkpoint = Path.Combine(options.Directory, "checkpoint.bin");
            model.save(checkpoint + ".new");
            File.Move(checkpoint + ".new", checkpoint, overwrite: true);
            Export.Save(model, tokenizer, Path.Combine(options.Directory, "demo.gguf"));
            if (progress >= 1) return;
        }
    }

    private double Step(Muon muon, optim.Optimizer optimizer, double schedule, int rows, int length)
    {
        using var scope = NewDisposeScope();
        var (ids, weights) = stream.Next(rows, length + 1);
        Tensor tokens = tensor(ids, [rows, length + 1]);
        Tensor weight = tensor(weights, [rows, length + 1]).slice(1, 1, length + 1, 1).reshape(-1);
        Tensor logits = model.forward(tokens.slice(1, 0, length, 1).contiguous());
        Tensor targets = tokens.slice(1, 1, length + 1, 1).reshape(-1);
        Tensor losses = F.cross_entropy(logits.view(-1, model.Shape.Vocabulary), targets, reduction: nn.Reduction.None);
        Tensor loss = (losses * weight).sum() / weight.sum();
        model.zero_grad();
        loss.backward();
        nn.utils.clip_grad_norm_(model.parameters(), options.ClipNorm);
        optimizer.step();
        muon.Step(options.MatrixRate * schedule, options.WeightDecay);
        return loss.ToDouble();
    }

    /// <summary>Mean negative log-likelihood per trained token, each example alone from position 0.</summary>
    public static double HeldOutLoss(Llama model, Tokenizer tokenizer, IEnumerable<Example> examples)
    {
        using var _ = no_grad();
        double sum = 0, count = 0;
        foreach (Example example in examples)
        {
            using var scope = NewDisposeScope();
            var (ids, weights) = example.Encode(tokenizer);
            int length = Math.Min(ids.Count, model.Shape.Context);
            Tensor tokens = tensor(ids.Take(length).ToArray(), [1, length]);
            Tensor logits = model.forward(tokens.slice(1, 0, length - 1, 1).contiguous());
            Tensor losses = F.cross_entropy(logits[0], tokens.slice(1, 1, length, 1).reshape(-1), reduction: nn.Reduction.None);
            float[] values = losses.data<float>().ToArray();
            for (int i = 1; i < length; i++)
                if (weights[i] >= 1)
                {
                    sum += values[i - 1];
                    count++;
                }
        }
        return sum / count;
    }
}
