using System.Globalization;
using System.Text.Json;
using Native.Bench.Common;
using Native.Scheduling;
using Native.Tools;

namespace Native.Bench.StepTime;

/// <summary>How well the step-time model fits steps of one kind.</summary>
/// <param name="Kind">prefill, decode, mixed or all.</param>
/// <param name="Steps">Steps looked at.</param>
/// <param name="Median">Relative error of the prediction, the median.</param>
/// <param name="P90">The 90th percentile.</param>
/// <param name="Noise">Relative distance of a step from the median of its own shape, the median: what no model can
/// know.</param>
internal sealed record FitError(string Kind, int Steps, double Median, double P90, double Noise);

/// <summary>Measured steps with the model fitted to them: a table, and a file that is read again.</summary>
/// <param name="Model">The model's name.</param>
/// <param name="Machine">The machine's.</param>
/// <param name="Coefficients">Of <see cref="StepTimeModel"/>, in seconds.</param>
/// <param name="Steps">What was measured; each is prefill tokens, tokens before them, decodes, tokens before them,
/// seconds.</param>
internal sealed record StepTimeFile(string Model, string Machine, double[] Coefficients, double[][] Steps)
{
    private static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.Web);

    /// <summary>Fits the samples as the engine would, one after the other.</summary>
    /// <remarks>The engine's model has the present speed. A file's is to be right on the whole, so that half of the
    /// samples are above it, and half below.</remarks>
    public static StepTimeFile Of(string model, string machine, IReadOnlyList<StepSample> samples)
    {
        double[] coefficients = new double[StepTimeModel.Count];
        Fit(samples).Read(coefficients);
        StepTimeModel last = new(coefficients);
        double scale = Statistics.Median([.. samples.Select(s => s.Seconds / last.Predict(s.Shape.Load))]);
        for (int k = 0; k < coefficients.Length; k++) coefficients[k] *= scale;
        return new StepTimeFile(model, machine, coefficients,
            [.. samples.Select(s => (double[])[s.Shape.Prefill, s.Shape.PrefillStart, s.Shape.Decodes,
                s.Shape.DecodeStart, s.Seconds])]);
    }

    /// <summary>The samples again.</summary>
    public IEnumerable<StepSample> Samples() => Steps.Select(s =>
        new StepSample(new DesignedStep((int)s[0], (int)s[1], (int)s[2], (int)s[3]), s[4]));

    /// <summary>Writes it.</summary>
    public void Write(string path) => File.WriteAllText(path, JsonSerializer.Serialize(this, Json) + "\n");

    /// <summary>Reads what was written.</summary>
    /// <exception cref="CommandException">It is no such file.</exception>
    public static StepTimeFile Read(string path)
    {
        try
        {
            StepTimeFile? file = JsonSerializer.Deserialize<StepTimeFile>(File.ReadAllText(path), Json);
            if (file?.Coefficients is { Length: StepTimeModel.Count } found && found.All(c => c >= 0)
                && file.Steps.All(step => step.Length == 5)) return file;
            throw new CommandException($"{path} is no file of steptime: {StepTimeModel.Count} coefficients from 0 and "
                + "steps of 5 numbers are expected");
        }
        catch (JsonException e)
        {
            throw new CommandException($"{path} is no file of steptime: {e.Message}");
        }
    }

    /// <summary>The model after all samples, in their order.</summary>
    public static StepTimeModel Fit(IEnumerable<StepSample> samples)
    {
        StepTimeModel fit = new();
        foreach (StepSample sample in samples) fit.Observe(sample.Shape.Load, sample.Seconds);
        return fit;
    }

    /// <summary>How far the model's predictions are from what was measured, by kind of step.</summary>
    public List<FitError> Errors()
    {
        StepTimeModel model = new(Coefficients);
        StepSample[] samples = [.. Samples()];
        Dictionary<DesignedStep, double> medians = samples.GroupBy(s => s.Shape)
            .ToDictionary(group => group.Key, group => Statistics.Median([.. group.Select(s => s.Seconds)]));
        FitError Of(string kind, IEnumerable<StepSample> steps)
        {
            StepSample[] some = [.. steps];
            double[] errors = [.. some.Select(s => Math.Abs((model.Predict(s.Shape.Load) / s.Seconds) - 1))];
            double[] noise = [.. some.Select(s => Math.Abs((medians[s.Shape] / s.Seconds) - 1))];
            return new FitError(kind, some.Length, Statistics.Median(errors), Statistics.Percentile(errors, 90),
                Statistics.Median(noise));
        }
        return [.. samples.GroupBy(s => s.Shape.Kind).Select(group => Of(group.Key, group)), Of("all", samples)];
    }

    /// <summary>The table of errors.</summary>
    public string Table() => MarkdownTable.Of(Columns, Errors());

    private static readonly Column<FitError>[] Columns =
    [
        new("steps", 8, Right: false, error => error.Kind),
        new("measured", 8, Right: true, error => error.Steps.ToString(CultureInfo.InvariantCulture)),
        new("error p50", 9, Right: true, error => Percent(error.Median)),
        new("error p90", 9, Right: true, error => Percent(error.P90)),
        new("noise p50", 9, Right: true, error => Percent(error.Noise)),
    ];

    private static string Percent(double share) => share.ToString("0.0 %", CultureInfo.InvariantCulture);
}
