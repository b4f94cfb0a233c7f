using System.Numerics;

namespace Native.Scheduling;

/// <summary>What a step takes, learned from the steps before it. One thread's; allocates nothing after its
/// construction.</summary>
/// <remarks>
/// Seconds = speed x (coefficients . features). The coefficients are the machine's shape: what a token of prompt, a
/// decode, a key attended to cost. They are never negative, so more work is never predicted to take less. The speed is
/// one factor over all of them, near 1, that follows a machine whose clock or neighbours change.
/// <para>Steps fall into classes by their size. Each class keeps the sums of its own last <see cref="Memory"/> steps,
/// in units of the predicted time, so that a thousand decodes do not outweigh ten prompts, nor are prompts forgotten
/// meanwhile. The sums of all classes are solved for the coefficients by non-negative least squares, one sweep of
/// coordinate descent a step, with a pull towards the prior that matters only where nothing was seen.</para>
/// <para>The speed learns from how far a step is from its own class's usual time (the fit's, where the class is new),
/// clipped at what noise does, so that a pause of the collector moves it by a few percent. A run of steps that are all
/// late is no noise, and moves it at once; so does a shorter run of early ones, because nothing makes a step fast by
/// accident. Where client and compiler took time from both cores, 12 of 100 steps took less than 0.7 of the prediction
/// while a run of four was asked on both sides, and 4 of 100 do now.</para>
/// </remarks>
internal sealed class StepTimeModel
{
    /// <summary>Coefficients there are, see <see cref="Features"/>.</summary>
    public const int Count = 6;

    private const int Memory = 64;     // steps of a class that count
    private const int Mature = 6;      // steps after which a class has a usual time
    private const int Warm = 64;       // steps after which the fit stands in for a class that has none
    private const int LateRun = 4;     // late steps out of bounds in a row that are no accident
    private const int EarlyRun = 2;    // early ones: a pause makes a step late, and no accident makes it early
    private const double PriorWeight = 0.05; // of the prior's pull, in steps
    private const double Unknown = 1.4; // clip of a new class's steps, as a logarithm: a factor of 4

    private const int PrefillClasses = 13, DecodeClasses = 10, DepthClasses = 4;
    private const int Sums = Count * (Count + 1) / 2; // the lower triangle of x xT
    private const int Stride = Sums + Count + 2;      // ... and x y, then steps and the usual logarithm

    /// <summary>A machine that nothing is known of: the ratios between coefficients are those of a small model on two
    /// cores, and the first steps scale them.</summary>
    private static readonly double[] Typical = [4.5e-3, 3.5e-4, 2e-7, 4e-4, 7e-7, 6e-4];

    private readonly double[] _classes = new double[PrefillClasses * DecodeClasses * DepthClasses * Stride];
    private readonly double[] _sums = new double[Sums];   // of all classes
    private readonly double[] _products = new double[Count];
    private readonly double[] _prior = new double[Count];
    private readonly double[] _coefficients = new double[Count];
    private readonly double[] _pull = new double[Count]; // of the prior, in steps per square of a coefficient
    private readonly bool _priorIsMeasured;
    private double _logPriorScale; // the prior times exp of this is as fast as the steps seen
    private double _logSpeed;
    private double _deviation = 0.1; // mean distance of a step from its class's usual, as a logarithm
    private double _lean;            // mean distance of the last ten steps or so, with its sign
    private double _high = 0.25;     // 19 of 20 steps are below the prediction times exp of this
    private int _run;                // steps in a row that were late (positive) or early (negative) beyond noise
    private int _misses;             // likewise, steps in a row that the fit was wrong about while it is new
    private long _steps;

    /// <summary>Knows nothing but a prior.</summary>
    /// <param name="prior"><see cref="Count"/> coefficients of an earlier fit, in seconds; empty for a typical
    /// machine's, whose scale comes from the first steps.</param>
    public StepTimeModel(ReadOnlySpan<double> prior = default)
    {
        if (!prior.IsEmpty && prior.Length != Count)
            throw new ArgumentException($"the prior has {prior.Length} coefficients, not {Count}", nameof(prior));
        _priorIsMeasured = !prior.IsEmpty;
        (prior.IsEmpty ? Typical : prior).CopyTo(_prior);
        foreach (double coefficient in _prior)
        {
            if (!(coefficient >= 0 && double.IsFinite(coefficient)))
                throw new ArgumentException($"the prior has the coefficient {coefficient}", nameof(prior));
        }
        Scale(1);
    }

    /// <summary>Seconds of each feature at the machine's present speed.</summary>
    /// <param name="coefficients">Room for <see cref="Count"/>.</param>
    public void Read(Span<double> coefficients)
    {
        double speed = Math.Exp(_logSpeed);
        for (int k = 0; k < Count; k++) coefficients[k] = _coefficients[k] * speed;
    }

    /// <summary>Seconds that a step takes, as far as is known.</summary>
    public double Predict(in StepLoad load)
    {
        Span<double> x = stackalloc double[Count];
        Features(load, x);
        return Math.Exp(_logSpeed) * Dot(_coefficients, x);
    }

    /// <summary>Seconds that 19 of 20 such steps stay below, for promises.</summary>
    public double PredictHigh(in StepLoad load) => Predict(load) * Math.Exp(_high);

    /// <summary>The longest chunk of a prompt that keeps a step within a time.</summary>
    /// <param name="others">What the step computes besides.</param>
    /// <param name="start">Tokens of the prompt's sequence that are computed.</param>
    /// <param name="most">Tokens it could have at most.</param>
    /// <param name="seconds">The step's time, by <see cref="Predict"/>.</param>
    /// <returns>Tokens; 0 where not even one fits.</returns>
    public int LargestPrefill(in StepLoad others, int start, int most, double seconds)
    {
        int fits = 0, longest = Math.Max(most, 0);
        while (fits < longest)
        {
            int count = longest - ((longest - fits) / 2);
            if (Predict(others.PlusPrefill(start, count)) <= seconds) fits = count;
            else longest = count - 1;
        }
        return fits;
    }

    /// <summary>Learns what a step took.</summary>
    /// <param name="load">What it computed; an empty step teaches nothing.</param>
    /// <param name="seconds">Its time; 0, negative or no number teaches nothing.</param>
    public void Observe(in StepLoad load, double seconds)
    {
        if (!(seconds > 1e-9 && seconds < 1e9) || load.Tokens <= 0) return;
        Span<double> x = stackalloc double[Count];
        Features(load, x);
        if (!_priorIsMeasured && IsFirst(Math.Log(seconds / Dot(_coefficients, x)) - _logSpeed))
            Restart(seconds / Dot(_prior, x));
        _steps++;
        Span<double> ofClass = _classes.AsSpan(ClassOf(load) * Stride, Stride);
        double usual = Math.Log(Dot(_prior, x)), fitted = Math.Log(Dot(_coefficients, x));
        double time = Math.Log(seconds) - _logSpeed; // what it would have taken at the usual speed
        double move = 0;
        if (ofClass[^2] >= Mature) time = LearnSpeed(time, usual + ofClass[^1], fitted, out move);
        else if (_steps > Warm) time = LearnSpeed(time, fitted, fitted, out move);
        else time = Math.Clamp(time, fitted - Unknown, fitted + Unknown);
        Learn(ofClass, x, time, usual, move);
        Solve();
        if (_steps % 4096 == 0) Refresh();
    }

    /// <summary>What the coefficients are of.</summary>
    public static readonly string[] FeatureNames =
    [
        "a step", "a token of prompt", "a key that prompts attend to", "a decode", "a key that decodes attend to",
        "a chunk",
    ];

    /// <summary>What a step's time is made of: a step, a token of prompt, a key that prompts attend to, a decode, a key
    /// that decodes attend to, a chunk.</summary>
    /// <remarks>Straight lines suffice: on two cores (135M, 8 bits) a hinge at 16 tokens of a step came out as
    /// 0.</remarks>
    private static void Features(in StepLoad load, Span<double> x)
    {
        x[0] = 1;
        x[1] = load.PrefillTokens;
        x[2] = load.PrefillAttention;
        x[3] = load.Decodes;
        x[4] = load.DecodeContext;
        x[5] = load.Chunks;
    }

    /// <summary>Steps of about the same size share a class: by powers of two of prompt tokens and of decodes, and by
    /// powers of four of the mean context.</summary>
    private static int ClassOf(in StepLoad load)
    {
        int prefill = Math.Min(BitOperations.Log2((uint)load.PrefillTokens << 1 | 1), PrefillClasses - 1);
        int decodes = Math.Min(BitOperations.Log2((uint)load.Decodes << 1 | 1), DecodeClasses - 1);
        double context = (load.PrefillAttention + load.DecodeContext) / load.Tokens;
        int depth = context < 128 ? 0 : context < 512 ? 1 : context < 2048 ? 2 : 3;
        return (((prefill * DecodeClasses) + decodes) * DepthClasses) + depth;
    }

    /// <summary>Whether the prior's scale is this step's: the very first, and while little is known a step after others
    /// that all were twice as long as the fit, or all half as long. Then the first one was an accident.</summary>
    private bool IsFirst(double distance)
    {
        if (_steps == 0) return true;
        if (_steps > Warm) return false;
        _misses = Math.Abs(distance) < Math.Log(2) ? 0 : Longer(_misses, distance);
        return Math.Abs(_misses) > LateRun;
    }

    /// <summary>A run of steps on one side with one more: positive above, negative below.</summary>
    private static int Longer(int run, double distance) => distance > 0 ? Math.Max(run, 0) + 1 : Math.Min(run, 0) - 1;

    /// <summary>Forgets all but the number of steps.</summary>
    private void Restart(double factor)
    {
        _classes.AsSpan().Clear();
        _sums.AsSpan().Clear();
        _products.AsSpan().Clear();
        _logPriorScale = _logSpeed = _run = _misses = 0;
        Scale(factor);
    }

    /// <summary>Moves the speed by how far a step is from what its class usually takes.</summary>
    /// <param name="time">The step's, at the usual speed; all as logarithms of seconds.</param>
    /// <param name="usual">Its class's.</param>
    /// <param name="fitted">What was predicted.</param>
    /// <param name="move">By how much.</param>
    /// <returns>The step's time without what is too much for noise.</returns>
    private double LearnSpeed(double time, double usual, double fitted, out double move)
    {
        double distance = time - usual, bound = Math.Max(3 * _deviation, 0.1);
        double clipped = Math.Clamp(distance, -bound, bound);
        bool isOut = clipped != distance;
        _run = isOut ? Longer(_run, distance) : 0;
        if (!isOut || distance < 0) _deviation += (Math.Abs(clipped) - _deviation) / 64;
        // It steps up 19 times as far as down (Robbins and Monro 1951), so it rests where 1 of 20 steps is above.
        _high = Math.Clamp(_high + (time - fitted > _high ? 0.019 : -0.001), 0, 3);
        bool changed = _run >= LateRun || _run <= -EarlyRun;
        // The more the distances of late are on one side, the more of each is taken in (Trigg and Leach 1967).
        _lean += (clipped - _lean) / 10;
        double onOneSide = Math.Min(Math.Abs(_lean) / Math.Max(_deviation, 1e-3), 1);
        double gain = 0.015 + (0.25 * onOneSide * onOneSide);
        move = changed ? (distance > 0 ? 0.3 : 0.9) * Math.Clamp(distance, -2, 2) : gain * clipped;
        _logSpeed = Math.Clamp(_logSpeed + move, -7, 7);
        return usual + (changed ? 0 : clipped); // what the speed is about to take in is no news of the class
    }

    /// <summary>Takes a step into its class's sums.</summary>
    /// <remarks>The usual time of a class with many steps moves with the speed, an eighth of its way: learned by
    /// themselves the two would drift apart, up and down, in a long run of one class.</remarks>
    private void Learn(Span<double> ofClass, ReadOnlySpan<double> x, double time, double usual, double move)
    {
        double steps = ofClass[^2];
        ofClass[^1] += steps + 1 < Memory ? (time - usual - ofClass[^1]) / (steps + 1) : move / 8;
        ofClass[^2] = Math.Min(steps + 1, Memory - 1);
        double weight = 1 / Dot(_coefficients, x), y = Math.Exp(time) * weight;
        double keep = steps + 1 < Memory ? 1 : 1 - (1.0 / Memory);
        int at = 0;
        for (int i = 0; i < Count; i++)
        {
            double xi = x[i] * weight;
            for (int j = 0; j <= i; j++, at++) Add(ref ofClass[at], ref _sums[at], keep, xi * x[j] * weight);
            Add(ref ofClass[Sums + i], ref _products[i], keep, xi * y);
        }
        // Where nothing was seen, the machine is supposed to be as fast as elsewhere.
        if (!_priorIsMeasured) _logPriorScale += (time - usual - _logPriorScale) / Math.Min(_steps, 256);
    }

    private static void Add(ref double ofClass, ref double ofAll, double keep, double value)
    {
        double before = ofClass;
        ofClass = (before * keep) + value;
        ofAll += ofClass - before;
    }

    /// <summary>A sweep of coordinate descent on the least squares of all classes and the prior (Lawson and Hanson's
    /// problem; the minimum in one coordinate, cut off at 0, is exact).</summary>
    private void Solve()
    {
        double scale = Math.Exp(_logPriorScale);
        for (int i = 0; i < Count; i++)
        {
            double pull = _pull[i] / (scale * scale), gradient = _products[i] + (pull * _prior[i] * scale);
            for (int j = 0; j < Count; j++)
            {
                if (j != i) gradient -= _coefficients[j] * _sums[i > j ? Index(i, j) : Index(j, i)];
            }
            _coefficients[i] = Math.Max(0, gradient / (_sums[Index(i, i)] + pull));
        }
        _coefficients[0] = Math.Max(_coefficients[0], 1e-9); // no step takes no time
    }

    /// <summary>Makes the prior this many times as slow, and takes it for the fit.</summary>
    private void Scale(double factor)
    {
        double step = Math.Max(_prior[0] * factor, 1e-9) / Typical[0];
        for (int k = 0; k < Count; k++)
        {
            _coefficients[k] = _prior[k] *= factor;
            // A prior of 0 is believed as much as one of the usual size.
            double size = Math.Max(_prior[k], Typical[k] * step);
            _pull[k] = PriorWeight / (size * size);
        }
    }

    /// <summary>Adds up all classes anew, so that no rounding stays.</summary>
    private void Refresh()
    {
        _sums.AsSpan().Clear();
        _products.AsSpan().Clear();
        for (int start = 0; start < _classes.Length; start += Stride)
        {
            if (_classes[start + Stride - 2] == 0) continue;
            for (int k = 0; k < Sums; k++) _sums[k] += _classes[start + k];
            for (int k = 0; k < Count; k++) _products[k] += _classes[start + Sums + k];
        }
    }

    private static int Index(int row, int column) => (row * (row + 1) / 2) + column;

    private static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int k = 0; k < Count; k++) sum += a[k] * b[k];
        return sum;
    }
}
