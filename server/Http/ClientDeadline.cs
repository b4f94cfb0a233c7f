using System.Diagnostics;
using System.Globalization;

namespace Native.Server.Http;

/// <summary>Until when a client waits for its answer, where its headers tell: HTTP has no deadline.</summary>
internal static class ClientDeadline
{
    /// <summary>Longest time that counts, in seconds: a day.</summary>
    private const double MostSeconds = 86400;

    /// <summary>Reads the headers; what is no time is ignored, and of several times the shortest counts.</summary>
    /// <param name="header">A header's value by its name; null where it is not there.</param>
    /// <param name="arrival">When the request arrived, as a <see cref="Stopwatch"/> timestamp.</param>
    /// <param name="streams">Whether the answer is streamed. The clients of OpenAI and Anthropic, and Envoy where it
    /// tries again, then wait for the head or the next byte alone, which comments bring them.</param>
    /// <returns>A <see cref="Stopwatch"/> timestamp; null for never.</returns>
    public static long? Of(Func<string, string?> header, long arrival, bool streams)
    {
        double seconds = Math.Min(
            Seconds(header("x-request-timeout"), 1), Seconds(header("x-request-timeout-ms"), 1e-3));
        if (!streams)
        {
            // Of the route, or of one of several tries, which ends no answer that has begun.
            seconds = Math.Min(seconds, Seconds(header("x-envoy-expected-rq-timeout-ms"), 1e-3));
            double read = Seconds(header("x-stainless-read-timeout"), 1);
            // These clients cut the fraction off; they hang up themselves when the time is over.
            double whole = Seconds(header("x-stainless-timeout"), 1) + 1;
            seconds = Math.Min(seconds, Math.Min(read, whole));
        }
        return double.IsPositiveInfinity(seconds) ? null : arrival + (long)(seconds * Stopwatch.Frequency);
    }

    private static double Seconds(string? value, double unit) =>
        double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out double number)
            && number > 0 && number * unit <= MostSeconds ? number * unit : double.PositiveInfinity;
}
